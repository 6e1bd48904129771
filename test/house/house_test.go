// Package house checks the rules of the house that a machine can check.
package house

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/slipway-mesh/slipway"

// root is the repository's top folder, from this package's.
const root = "../.."

// files lists the Go files that git tracks or would.
func files(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.go")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// table reads the rows of the ARCHITECTURE.md table whose header has the given second column.
func table(t *testing.T, second string) map[string][]string {
	t.Helper()
	f, err := os.Open(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	rows, inside := map[string][]string{}, false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		cells := strings.Split(lines.Text(), "|")
		if len(cells) < 4 {
			inside = false
			continue
		}
		first, rest := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])
		switch {
		case rest == second:
			inside = true
		case inside && !strings.HasPrefix(first, "---"):
			rows[first] = strings.Fields(rest)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("ARCHITECTURE.md has no table %q", second)
	}
	return rows
}

func TestImports(t *testing.T) {
	allowed, banned := table(t, "may import of ours"), table(t, "must not import")
	for _, file := range files(t) {
		pkg := filepath.Dir(file)
		if strings.HasPrefix(pkg, "test/cluster") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		may, listed := allowed[pkg]
		if !listed {
			t.Errorf("%s: package %s has no row in ARCHITECTURE.md", file, pkg)
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			if ours, ok := strings.CutPrefix(path, module+"/"); ok && !permitted(may, ours) {
				t.Errorf("%s imports %s, which the table does not allow", file, ours)
			}
			for _, prefix := range banned[pkg] {
				if strings.HasPrefix(path, prefix) {
					t.Errorf("%s imports %s, which is banned there", file, path)
				}
			}
		}
	}
}

func permitted(may []string, path string) bool {
	for _, one := range may {
		if one == "*" || one == path {
			return true
		}
	}
	return false
}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

const maxLines, maxFunction, maxParameters = 500, 80, 6

func TestSizes(t *testing.T) {
	for _, file := range files(t) {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") || generated.Match(text) {
			continue
		}
		if n := strings.Count(string(text), "\n"); n > maxLines {
			t.Errorf("%s has %d lines, more than %d", file, n, maxLines)
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range parsed.Decls {
			f, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1; n > maxFunction {
				t.Errorf("%s: %s has %d lines, more than %d", file, f.Name.Name, n, maxFunction)
			}
			if n := f.Type.Params.NumFields(); n > maxParameters {
				t.Errorf("%s: %s has %d parameters, more than %d", file, f.Name.Name, n, maxParameters)
			}
			if f.Name.Name == "init" && f.Recv == nil {
				t.Errorf("%s has an init function", file)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]bool{}
	packages := map[string]bool{}
	for _, file := range files(t) {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		packages[filepath.Dir(file)] = true
		documented[filepath.Dir(file)] = documented[filepath.Dir(file)] || parsed.Doc != nil
	}
	for pkg := range packages {
		if !documented[pkg] {
			t.Errorf("package %s has no comment that says what it is", pkg)
		}
	}
	for _, name := range []string{"util", "utils", "common", "helpers", "core"} {
		for pkg := range packages {
			if filepath.Base(pkg) == name {
				t.Errorf("package %s: name it after what it is", pkg)
			}
		}
	}
}

// The environment is read where options are, by the tables there.
func TestEnvironmentIsReadInOptions(t *testing.T) {
	for _, file := range files(t) {
		if strings.HasSuffix(file, "_test.go") || filepath.Base(file) == "options.go" || strings.HasPrefix(file, "test/") || strings.HasPrefix(file, "hack/") || strings.HasPrefix(file, "samples/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "os.Getenv(") || strings.Contains(string(text), "os.LookupEnv(") {
			t.Errorf("%s reads the environment; only options.go may", file)
		}
	}
}

func TestMakefileIsShort(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), ".PHONY:"); n > 15 {
		t.Errorf("the Makefile has %d targets, more than 15", n)
	}
	scripts, err := filepath.Glob(filepath.Join(root, "hack", "*.sh"))
	if err != nil || len(scripts) > 5 {
		t.Errorf("hack has %d scripts, more than 5 (%v)", len(scripts), err)
	}
}

// maxFile is how large a file of the repository may be: what is larger was built, and belongs nowhere.
const maxFile = 2 << 20

// TestNoLargeFiles: nothing that was built is checked in.
func TestNoLargeFiles(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		info, err := os.Stat(filepath.Join(root, name))
		if err == nil && info.Size() > maxFile {
			t.Errorf("%s has %d bytes", name, info.Size())
		}
	}
}
