package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
)

// TestBugReportStrikesSecrets: keys and tokens do not come into the archive, whatever they stand in.
func TestBugReportStrikesSecrets(t *testing.T) {
	var out bytes.Buffer
	r := &bugReport{out: tar.NewWriter(&out)}
	const key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----"
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
	r.add("a", []byte("before "+key+" between "+token+" after"), nil)
	if err := r.out.Close(); err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(&out)
	if _, err := archive.Next(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(archive)
	if got := string(text); err != nil || got != "before [struck] between [struck] after" {
		t.Error(err, got)
	}
	dump, err := withoutSecrets([]byte(`{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.SecretsConfigDump","x":1},{"@type":"type.googleapis.com/envoy.admin.v3.ClustersConfigDump"}]}`))
	if err != nil || strings.Contains(string(dump), "Secrets") || !strings.Contains(string(dump), "Clusters") {
		t.Error(err, string(dump))
	}
}
