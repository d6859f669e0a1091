// Package stockade_test holds the rules about who may import whom, each with its reason.
package stockade_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "stockade"

// rule forbids imports to the packages beneath a folder. Test files are free.
type rule struct {
	in     string   // folder, with all beneath it
	except []string // folders beneath in that the rule leaves out
	not    []string // import paths, with all beneath them
	only   []string // besides in itself, nothing of this module but these; nil: no such rule
	third  []string // no modules of others but these (prefixes of import paths); nil: no such rule
	reason string
}

var helpers = []string{"mountd", "grantd", "netd", "cgroupd"}

func rules() []rule {
	all := []rule{
		{in: "gate", not: []string{module + "/engine", module + "/priv", "os/exec", "plugin"},
			reason: "the gate faces clients: it holds nothing of what it protects, and starts nothing"},
		{in: "engine", not: []string{module + "/gate", module + "/priv", "plugin"},
			reason: "the engine may be compromised: it knows the helpers by their protocol alone"},
		{in: "api", only: []string{"internal"}, third: []string{},
			reason: "values that cross a process boundary: whoever imports them must not get anything else with them"},
		{in: "internal", not: []string{module + "/gate", module + "/engine", module + "/priv", module + "/cli", module + "/host"},
			reason: "leaves are beneath everything"},
		{in: "priv/peer", only: []string{"api", "internal"}, third: []string{"golang.org/x/sys"},
			reason: "shared by all helpers"},
		{in: "host", not: []string{module + "/gate", module + "/engine", module + "/priv", module + "/cli", "net/http"},
			reason: "read-only checks, run as root"},
		{in: "priv/supervisor", not: []string{module + "/gate", module + "/engine", module + "/cli", "net/http"},
			reason: "runs as root: it parses nothing that comes from others"},
	}
	third := map[string][]string{
		"netd": {"golang.org/x/sys", "github.com/vishvananda/netlink", "github.com/google/nftables", "github.com/mdlayher/netlink"},
	}
	never := []string{"net/http", "os/exec", "plugin", "text/template", "html/template", "encoding/gob"}
	for _, h := range helpers {
		allowed := third[h]
		if allowed == nil {
			allowed = []string{"golang.org/x/sys"}
		}
		not := never
		if h != "netd" { // the netlink modules speak in package net's address types
			not = append([]string{"net"}, never...)
		}
		all = append(all, rule{in: "priv/" + h, only: []string{"api", "internal", "priv/peer"}, third: allowed,
			not:    not,
			reason: "a helper holds kernel privilege: it meets others only in messages, and brings no parser or client of its own"})
	}
	return all
}

// packageImports are the imports of one folder's files, without tests.
type packageImports struct {
	folder  string
	imports map[string]string // path → file
}

func readAll(t *testing.T) []packageImports {
	t.Helper()
	byFolder := map[string]*packageImports{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin" || path == "tools") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder := filepath.ToSlash(filepath.Dir(path))
		p := byFolder[folder]
		if p == nil {
			p = &packageImports{folder: folder, imports: map[string]string{}}
			byFolder[folder] = p
		}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			p.imports[name] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []packageImports
	for _, p := range byFolder {
		all = append(all, *p)
	}
	return all
}

func beneath(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func anyBeneath(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return beneath(path, f) })
}

// broken tells which part of the rule an import breaks; empty if none.
func (r rule) broken(path string) string {
	inside, ours := strings.CutPrefix(path, module+"/")
	switch {
	case slices.ContainsFunc(r.not, func(n string) bool { return n == path || (strings.HasPrefix(n, module+"/") && beneath(path, n)) }):
		return "is forbidden here"
	case ours && r.only != nil && !beneath(inside, r.in) && !anyBeneath(inside, r.only):
		return "is not among " + strings.Join(r.only, ", ")
	case !ours && strings.Contains(path, ".") && r.third != nil && !anyBeneath(path, r.third):
		return "is another project's module, not among those allowed here"
	}
	return ""
}

func TestImports(t *testing.T) {
	packages := readAll(t)
	if len(packages) < 10 {
		t.Fatalf("only %d packages found", len(packages))
	}
	for _, r := range rules() {
		for _, p := range packages {
			if !beneath(p.folder, r.in) || anyBeneath(p.folder, r.except) {
				continue
			}
			for path, file := range p.imports {
				if why := r.broken(path); why != "" {
					t.Errorf("%s imports %s, which %s: %s", file, path, why, r.reason)
				}
			}
		}
	}
}

// TestMains holds that a main imports one process package and the hand-over, so that wiring stays in the packages.
func TestMains(t *testing.T) {
	for _, p := range readAll(t) {
		if !strings.HasPrefix(p.folder, "cmd/") {
			continue
		}
		for path, file := range p.imports {
			if strings.Contains(path, ".") && !strings.HasPrefix(path, "golang.org/x/") {
				t.Errorf("%s imports %s: a main only starts a process package", file, path)
			}
		}
	}
}

// linked are packages that must not be in a program at all, however they came there.
var linked = map[string][]string{
	"stockade-mountd":  {"net/http", "os/exec", "crypto/tls", module + "/engine", module + "/gate"},
	"stockade-grantd":  {"net/http", "os/exec", "crypto/tls", module + "/engine", module + "/gate"},
	"stockade-netd":    {"net/http", "crypto/tls", module + "/engine", module + "/gate"},
	"stockade-cgroupd": {"net/http", "os/exec", "crypto/tls", module + "/engine", module + "/gate"},
	"stockade-gate":    {"os/exec", module + "/engine", module + "/priv"},
	"stockade-engine":  {module + "/gate", module + "/priv"},
	"stockade-shim":    {"net/http", "crypto/tls", module + "/gate", module + "/priv"},
	"stockade":         {module + "/engine", module + "/gate"},
}

func TestLinked(t *testing.T) {
	for program, forbidden := range linked {
		out, err := exec.Command("go", "list", "-deps", "./cmd/"+program).CombinedOutput()
		if err != nil {
			if strings.Contains(string(out), "directory not found") {
				continue
			}
			t.Errorf("%s: %v: %s", program, err, out)
			continue
		}
		for _, dep := range strings.Fields(string(out)) {
			if slices.ContainsFunc(forbidden, func(f string) bool { return dep == f || (strings.HasPrefix(f, module+"/") && beneath(dep, f)) }) {
				t.Errorf("%s links %s", program, dep)
			}
		}
	}
}

// TestUnsafe holds that unsafe is imported only by files that say so in their name.
func TestUnsafe(t *testing.T) {
	for _, p := range readAll(t) {
		if file, ok := p.imports["unsafe"]; ok && !strings.HasSuffix(file, "_unsafe.go") {
			t.Errorf("%s imports unsafe: its name must end with _unsafe.go", file)
		}
	}
}
