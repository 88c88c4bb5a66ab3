// Package lint holds the house's rules as tests: who may import whom, and what
// no package below the keeper may do.
package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/zramfs/zramfs/"

// rooms says which of our packages a room may import. Leaves may be imported
// by all and import none.
var rooms = map[string][]string{
	"stable":              {},
	"internal/image":      {},
	"internal/invariants": {},
	"internal/nearest":    {},
	"internal/percpu":     {},
	"internal/policy":     {},
	"internal/shm":        {},
	"internal/uring":      {},
	"internal/xts":        {},
	"internal/backing":    {},
	"pool":                {"internal/shm"},
	"compress":            {"stable"},
	"blockdev":            {"compress", "pool", "stable", "internal/policy", "internal/shm", "internal/xts"},
	"internal/fuseconn":   {"internal/shm", "internal/uring"},
	"internal/fusefs":     {"blockdev", "internal/fuseconn", "internal/shm"},
	"internal/host":       {},
	"internal/keeper": {"blockdev", "compress", "stable", "internal/fusefs", "internal/fuseconn",
		"internal/host", "internal/policy", "internal/shm", "internal/backing"},
	"cmd/zramfs": {"blockdev", "compress", "stable", "internal/keeper", "internal/host"},
}

var leaves = []string{"internal/image", "internal/invariants", "internal/nearest", "internal/percpu"}

// only says which rooms may import a library.
var only = map[string][]string{
	"github.com/hanwen/go-fuse/": {"internal/fuseconn", "internal/fusefs"},
	"github.com/pierrec/lz4/":    {"compress"},
	"github.com/minio/minlz":     {"compress"},
	"github.com/klauspost/compress/": {"compress", "internal/testpages", "internal/swapload",
		"test/swapper"},
	"github.com/BurntSushi/toml": {"internal/keeper"},
	"github.com/HdrHistogram/":   {"internal/swapload", "test/"},
	"gonum.org/":                 {"test/"},

	"log":          {"internal/keeper", "internal/host", "cmd/zramfs", "test/"},
	"log/slog":     {"internal/keeper", "internal/host", "cmd/zramfs", "test/"},
	"flag":         {"cmd/zramfs", "test/", "internal/lint"},
	"os/signal":    {"internal/keeper", "cmd/zramfs", "test/"},
	"net/http":     {"cmd/zramfs"},
	"testing":      {"internal/testpages", "test/"},
	"math/rand":    {},
	"io/ioutil":    {},
	"database/sql": {},
}

// stateless are the packages that keep no mutable state of their own.
var stateless = []string{"blockdev", "compress", "pool", "stable", "internal/policy", "internal/shm"}

// file is one parsed source file of the project, tests apart.
type file struct {
	room string
	path string
	tree *ast.File
}

func sources(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var files []file
	set := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if n := e.Name(); n != "." && strings.HasPrefix(n, ".") || n == "build" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		tree, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files = append(files, file{room: filepath.ToSlash(filepath.Dir(rel)), path: rel, tree: tree})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d source files under %s", len(files), root)
	}
	return files
}

func under(room string, allowed []string) bool {
	for _, a := range allowed {
		if room == a || strings.HasPrefix(room, strings.TrimSuffix(a, "/")+"/") {
			return true
		}
	}
	return false
}

func TestImports(t *testing.T) {
	for _, f := range sources(t) {
		for _, spec := range f.tree.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			if ours, ok := strings.CutPrefix(path, module); ok {
				allowed, known := rooms[f.room]
				if known && !under(ours, leaves) && !under(ours, allowed) && ours != f.room {
					t.Errorf("%s imports %s: %s may import %v and the leaves", f.path, ours, f.room, allowed)
				}
				continue
			}
			for lib, allowed := range only {
				if (path == lib || strings.HasSuffix(lib, "/") && strings.HasPrefix(path, lib)) && !under(f.room, allowed) {
					t.Errorf("%s imports %s: only %v may", f.path, path, allowed)
				}
			}
		}
	}
}

// A package-level variable is state that two devices would share. Errors made
// once and interface assertions are not.
func TestNoPackageState(t *testing.T) {
	for _, f := range sources(t) {
		if !under(f.room, stateless) {
			continue
		}
		for _, decl := range f.tree.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					if name.Name == "_" || i < len(v.Values) && constant(v.Values[i]) {
						continue
					}
					t.Errorf("%s: package-level variable %s", f.path, name.Name)
				}
			}
		}
	}
}

// constant says whether an initialiser makes a value that nobody changes:
// an error, or a table of literals.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CallExpr:
		s, ok := e.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		pkg, _ := s.X.(*ast.Ident)
		return pkg != nil && (pkg.Name == "errors" && s.Sel.Name == "New" || pkg.Name == "crc32" && s.Sel.Name == "MakeTable")
	case *ast.CompositeLit:
		_, array := e.Type.(*ast.ArrayType)
		return array
	}
	return false
}

// Files are read in one sitting.
func TestFileLength(t *testing.T) {
	for _, f := range sources(t) {
		text, err := os.ReadFile(filepath.Join("../..", f.path))
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(text, []byte("\n")); lines > 500 {
			t.Errorf("%s has %d lines; split it by family of operation", f.path, lines)
		}
	}
}
