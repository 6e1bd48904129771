package agent

import (
	"bytes"
	"encoding/pem"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Secrets of files have names that say which: file-cert:CHAIN~KEY, file-root:CA and file-root:system, as Istio names them. Envoy
// could read the files itself, but refuses what names one that is not there yet, and would not see a new one.
const (
	certificatePrefix = "file-cert:"
	rootPrefix        = "file-root:"
	systemRoots       = "system"
)

// filePoll is how often files are looked at: what mounts them replaces whole folders, which no watch of a file sees.
const filePoll = 2 * time.Second

// isFile says that a secret's name is one of files.
func isFile(name string) bool {
	return strings.HasPrefix(name, certificatePrefix) || strings.HasPrefix(name, rootPrefix)
}

// fileSecret reads a secret; nil while its files cannot be read.
func fileSecret(name string) *tls.Secret {
	if pair, ok := strings.CutPrefix(name, certificatePrefix); ok {
		chainFile, keyFile, _ := strings.Cut(pair, "~")
		chain, key := readFile(chainFile), readFile(keyFile)
		if chain == nil || key == nil {
			return nil
		}
		return certificateSecret(name, chain, key)
	}
	path := strings.TrimPrefix(name, rootPrefix)
	if path == systemRoots {
		return rootSecret(name, systemBundle())
	}
	if root := readFile(path); root != nil {
		return rootSecret(name, root)
	}
	return nil
}

func readFile(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		slog.Warn("SDS: a certificate's file cannot be read; what needs it waits", "error", err)
		return nil
	}
	return text
}

// systemFiles are where distributions have the authorities that they trust.
var systemFiles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}

// systemBundle is the authorities of the image, or, where it has none, those of Mozilla's list as Go ships it.
var systemBundle = sync.OnceValue(func() []byte {
	for _, path := range systemFiles {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			return text
		}
	}
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil { // Envoy could not keep to one
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return out.Bytes()
})
