package xts

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The standard's vectors 1 and 2, and one of AES-256 over a long sector, whose
// expected bytes come from another implementation (OpenSSL).
func TestVectors(t *testing.T) {
	for _, v := range []struct {
		key, plain, want string
		number           uint64
	}{
		{"00000000000000000000000000000000" + "00000000000000000000000000000000",
			"0000000000000000000000000000000000000000000000000000000000000000",
			"917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e", 0},
		{"11111111111111111111111111111111" + "22222222222222222222222222222222",
			"4444444444444444444444444444444444444444444444444444444444444444",
			"c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0", 0x3333333333},
	} {
		c, err := New(unhex(t, v.key))
		if err != nil {
			t.Fatal(err)
		}
		b := unhex(t, v.plain)
		c.Encrypt(b, v.number)
		if got := hex.EncodeToString(b); got != v.want {
			t.Errorf("sector %#x: %s, want %s", v.number, got, v.want)
		}
		c.Decrypt(b, v.number)
		if got := hex.EncodeToString(b); got != v.plain {
			t.Errorf("sector %#x decrypts to %s", v.number, got)
		}
	}
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	page := make([]byte, 4096)
	for i := range page {
		page[i] = byte(i * 7)
	}
	c, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(page)
	c.Encrypt(page, 0x123456789a)
	for at, want := range map[int]string{0: "a2f20285a90bd04dcba9311c608afd3364d41819bfeae6beec31c8a2efe62b3e", 2048: "11e56087980c2e28e4b0fa9e960fa3b92f720135f07399ed18eeb52b204bbccb", 4064: "df1c56961c3ac642381c20bf301f61d57ee921afd5e5c2e8deedb2ecb43e5758"} {
		if got := hex.EncodeToString(page[at : at+32]); got != want {
			t.Errorf("byte %d: %s, want %s", at, got, want)
		}
	}
	c.Clone().Decrypt(page, 0x123456789a)
	if !bytes.Equal(page, was) {
		t.Error("a page decrypts to something else")
	}
	c.Encrypt(page, 1)
	other := bytes.Clone(was)
	c.Encrypt(other, 2)
	if bytes.Equal(page, other) {
		t.Error("the sector's number changes nothing")
	}
}

func TestKeys(t *testing.T) {
	for _, n := range []int{0, 31, 33, 63, 100} {
		if _, err := New(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	c, err := New(make([]byte, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 4096)
	if n := testing.AllocsPerRun(10, func() { c.Encrypt(page, 1); c.Decrypt(page, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEncrypt(b *testing.B) {
	c, err := New(make([]byte, KeySize))
	if err != nil {
		b.Fatal(err)
	}
	page := make([]byte, 4096)
	b.SetBytes(4096)
	for i := range b.N {
		c.Encrypt(page, uint64(i))
	}
}
