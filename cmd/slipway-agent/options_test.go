package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEnvironmentIsHandedOver: what the agent looks for in its environment is in the table, and so reaches it.
func TestEnvironmentIsHandedOver(t *testing.T) {
	files, err := filepath.Glob("../../internal/sidecar/agent/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no agent", err)
	}
	used := regexp.MustCompile(`(?:Environment|env)\["([A-Z_]+)"\]`)
	for _, file := range append(files, "options.go") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range used.FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(environment, match[1]) && !strings.HasPrefix(match[1], "ISTIO_META") {
				t.Errorf("%s reads %s, which is not in the table", file, match[1])
			}
		}
	}
}
