package agent

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// A gRPC application is a client of xDS itself: the agent beside it has no Envoy. It writes down for the application where the control
// plane is, which is the agent's socket, and keeps its certificate in files, since gRPC reads no others.

// The files of the certificate, as Istio's agent calls them.
const chainFile, keyFile, rootFile = "cert-chain.pem", "key.pem", "root-cert.pem"

// grpcBootstrapFile is what GRPC_XDS_BOOTSTRAP of applications names.
const grpcBootstrapFile = "grpc-bootstrap.json"

type object = map[string]any

// writeGRPCBootstrap writes what gRPC starts with.
// https://grpc.github.io/grpc/core/md_doc_grpc_xds_bootstrap_format.html
func (o Options) writeGRPCBootstrap() error {
	node := o.bootstrap()
	node.Metadata["GENERATOR"] = "grpc"
	text, err := json.MarshalIndent(object{
		"xds_servers": []any{object{"server_uri": "unix://" + o.xdsSocket(), "channel_creds": []any{object{"type": "insecure"}}, "server_features": []string{"xds_v3"}}},
		"node":        object{"id": node.NodeID(), "metadata": node.Metadata},
		"certificate_providers": object{"default": object{"plugin_name": "file_watcher", "config": object{"certificate_file": filepath.Join(o.OutputCerts, chainFile),
			"private_key_file": filepath.Join(o.OutputCerts, keyFile), "ca_certificate_file": filepath.Join(o.OutputCerts, rootFile), "refresh_interval": "900s"}}},
		"server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
	}, "", " ")
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(o.ConfigDir, grpcBootstrapFile), text)
}

// writeCertificate keeps a certificate in files, the key last: a key without its certificate is of no use to whoever reads between.
func (o Options) writeCertificate(c *identity.Certificate) {
	if o.OutputCerts == "" {
		return
	}
	for _, file := range []struct {
		name string
		text []byte
	}{{rootFile, c.RootPEM}, {chainFile, c.ChainPEM}, {keyFile, c.KeyPEM}} {
		if err := writeWhole(filepath.Join(o.OutputCerts, file.name), file.text); err != nil {
			slog.Error("certificate: cannot be written for the application", "error", err)
			return
		}
	}
}

// writeWhole puts a file in its place at once. The applications of the pod may be of any user.
func writeWhole(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o644); err != nil { //nolint:gosec // the folder is this pod's alone
		return err
	}
	return os.Rename(path+".new", path)
}
