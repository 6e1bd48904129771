package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// A workload's certificate need not come from the control plane's authority. Files of it may be mounted into the pod, and then they are
// followed; or another server may offer it at the SDS socket, as SPIRE's agent does, and then Envoy is left to that.
// https://istio.io/latest/docs/ops/integrations/spire/

// readMounted reads the files of a folder: the chain, its key and the root.
func readMounted(folder string) (*identity.Certificate, error) {
	var texts [3][]byte
	for i, name := range []string{chainFile, keyFile, rootFile} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		texts[i] = text
	}
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return nil, fmt.Errorf("the files in %s: %w", folder, err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(texts[2]) {
		return nil, fmt.Errorf("%s in %s has no certificate", rootFile, folder)
	}
	return &identity.Certificate{ChainPEM: texts[0], KeyPEM: texts[1], RootPEM: texts[2], Obtained: pair.Leaf.NotBefore, NotAfter: pair.Leaf.NotAfter}, nil
}

// isMounted says whether there are such files.
func (o Options) isMounted() bool {
	_, err := os.Stat(filepath.Join(o.MountedCerts, chainFile))
	return o.MountedCerts != "" && err == nil
}

// follow gives what is mounted to all, until the context ends. While files do not fit each other, as when they are replaced one by one,
// what was there before serves.
func (s *secrets) follow(ctx context.Context) error {
	var last *identity.Certificate
	ticker := time.NewTicker(filePoll)
	defer ticker.Stop()
	for {
		c, err := readMounted(s.options.MountedCerts)
		switch {
		case err != nil:
			slog.Warn("certificate: what is mounted cannot be used", "error", err)
			s.set(nil, err)
		case last == nil || !bytes.Equal(c.ChainPEM, last.ChainPEM) || !bytes.Equal(c.RootPEM, last.RootPEM):
			slog.Info("certificate: mounted", "folder", s.options.MountedCerts, "until", c.NotAfter)
			s.set(c, nil)
			last = c
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// isServed says whether another server answers at the SDS socket. What an agent before this one left there does not.
func (o Options) isServed() bool {
	connection, err := net.DialTimeout("unix", o.SDSSocket, time.Second)
	if err != nil {
		return false
	}
	_ = connection.Close()
	return true
}
