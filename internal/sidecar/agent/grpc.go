package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
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

// writeGRPCBootstrap writes what gRPC starts with, where the agent's socket leads to the control plane.
func (o Options) writeGRPCBootstrap() error {
	file := func(name string) string { return filepath.Join(o.OutputCerts, name) }
	text, err := o.grpcBootstrap("unix://"+o.xdsSocket(), object{"default": object{"plugin_name": "file_watcher", "config": object{"certificate_file": file(chainFile),
		"private_key_file": file(keyFile), "ca_certificate_file": file(rootFile), "refresh_interval": "900s"}}})
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(o.ConfigDir, grpcBootstrapFile), text)
}

// plainPort is where a control plane serves xDS without TLS.
const plainPort = "15010"

// WriteSimpleBootstrap writes what gRPC starts with where no agent goes on beside the application: it calls the control plane itself, in
// plain text, and has no certificate.
func WriteSimpleBootstrap(o Options, path string) error {
	if err := o.Check(); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(o.Discovery)
	if err != nil {
		return fmt.Errorf("address %q: %w", o.Discovery, err)
	}
	text, err := o.grpcBootstrap("dns:///"+net.JoinHostPort(host, plainPort), nil)
	if err != nil {
		return err
	}
	return writeWhole(path, text)
}

// grpcBootstrap is what gRPC reads.
// https://grpc.github.io/grpc/core/md_doc_grpc_xds_bootstrap_format.html
func (o Options) grpcBootstrap(server string, certificates object) ([]byte, error) {
	node := o.bootstrap()
	node.Metadata["GENERATOR"] = "grpc"
	out := object{
		"xds_servers": []any{object{"server_uri": server, "channel_creds": []any{object{"type": "insecure"}}, "server_features": []string{"xds_v3"}}},
		"node":        object{"id": node.NodeID(), "metadata": node.Metadata},

		"server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
	}
	if certificates != nil {
		out["certificate_providers"] = certificates
	}
	return json.MarshalIndent(out, "", " ")
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
