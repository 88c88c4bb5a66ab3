package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// kernelZram makes a device of the kernel's own zram for the test, beside
// whatever zram0 is used for, and gives its number; it is removed when the
// test ends. ok is false, with a reason in the log, where there is none to be
// had.
func kernelZram(t *testing.T) (id string, ok bool) {
	t.Helper()
	if inContainer() {
		t.Log("not compared with the kernel's zram: a container could make a device, but not remove it")
		return "", false
	}
	text, err := os.ReadFile("/sys/class/zram-control/hot_add")
	if err != nil {
		t.Logf("not compared with the kernel's zram: %v", err)
		return "", false
	}
	id = strings.TrimSpace(string(text))
	t.Cleanup(func() {
		await(t, "the end of the kernel's zram"+id, func() bool {
			return store("/sys/class/zram-control/hot_remove", id) == nil
		})
	})
	disk := "/dev/zram" + id
	if f, err := os.OpenFile(disk, os.O_RDWR, 0); err != nil {
		t.Logf("not compared with the kernel's zram: %v", err)
		return "", false
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return id, true
}

// kernelGet reads an attribute of the kernel's zram.
func kernelGet(t *testing.T, id, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/sys/block/zram%s/%s", id, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func kernelSet(t *testing.T, id, name, value string) {
	t.Helper()
	if err := store(fmt.Sprintf("/sys/block/zram%s/%s", id, name), value); err != nil {
		t.Fatalf("%s = %s: %v", name, value, err)
	}
}
