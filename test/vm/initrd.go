package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zramfs/zramfs/internal/testpages"
)

// basePages is how many pages of the corpus an eater writes. More would weigh
// on a guest of 128 MiB.
const basePages = 512

// archive is a cpio archive in the form that the kernel unpacks (newc).
type archive struct {
	bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode uint32, content []byte) {
	a.inode++
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.WriteString(name)
	a.WriteByte(0)
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

func (a *archive) directory(name string)            { a.add(name, 0o040755, nil) }
func (a *archive) file(name string, content []byte) { a.add(name, 0o100755, content) }
func (a *archive) link(name, target string)         { a.add(name, 0o120777, []byte(target)) }
func (a *archive) end()                             { a.add("TRAILER!!!", 0, nil) }
func (a *archive) copyFile(name, source string) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	a.file(name, content)
	return nil
}

// applets are the commands of busybox that guests use.
func applets() []string {
	return []string{"sh", "insmod", "mkswap", "swapon", "swapoff", "cat", "ls", "ps", "tr", "echo", "dmesg", "sleep",
		"mkdir", "ifconfig"}
}

// initrd writes the root of every guest with this kernel: everything that a
// test could need, so that parameters alone make the difference.
func (d dirs) initrd(kernel string) (string, error) {
	var a archive
	for _, name := range []string{"bin", "dev", "proc", "sys", "run", "tmp", "modules"} {
		a.directory(name)
	}
	files := map[string]string{
		"init":        filepath.Join(d.work, "init"),
		"bin/zramfs":  filepath.Join(d.work, "zramfs"),
		"bin/busybox": filepath.Join(d.work, "busybox"),
		"setup.sh":    filepath.Join(d.root, "test/vm/guest/setup.sh"),
	}
	modules, err := filepath.Glob(filepath.Join(d.work, "kernel", kernel, "modules", "*.ko"))
	if err != nil {
		return "", fmt.Errorf("initrd: %w", err)
	}
	for _, m := range modules {
		files["modules/"+filepath.Base(m)] = m
	}
	for _, name := range sortedKeys(files) {
		if err := a.copyFile(name, files[name]); err != nil {
			return "", err
		}
	}
	for _, name := range applets() {
		a.link("bin/"+name, "busybox")
	}
	pages, err := somePages(filepath.Join(d.root, "testdata/pages.zst"))
	if err != nil {
		return "", err
	}
	a.file("pages.bin", pages)
	a.end()
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err == nil {
		_, err = w.Write(a.Bytes())
	}
	if err == nil {
		err = w.Close()
	}
	path := filepath.Join(d.work, "initrd-"+kernel+".gz")
	if err == nil {
		err = os.WriteFile(path, packed.Bytes(), 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("initrd: %w", err)
	}
	return path, nil
}

// somePages takes pages from all over the corpus, which holds one program
// after another.
func somePages(path string) ([]byte, error) {
	all, err := testpages.Load(path)
	if err != nil {
		return nil, err
	}
	var b []byte
	for i := range basePages {
		b = append(b, all[i*len(all)/basePages]...)
	}
	return b, nil
}
