// Package xts is AES-XTS (IEEE 1619) over whole sectors: what a disk is
// encrypted with. A sector keeps its length, and needs no nonce but its number;
// two writes of the same bytes to the same sector look the same.
//
// It does not say whether a sector was tampered with: who reads one verifies
// what it decrypts to. It never allocates after New.
package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// KeySize is the length of a key: AES-256 twice, for the bytes and for the
// tweaks.
const KeySize = 64

// Cipher encrypts and decrypts sectors. It has scratch of its own: one thread
// uses it at a time, and others use clones.
type Cipher struct {
	data, tweak cipher.Block // immutable
	first       [aes.BlockSize]byte
	tweaks      [group * aes.BlockSize]byte
}

// New takes a key of two equal halves: 32 bytes for AES-128, KeySize for AES-256.
func New(key []byte) (*Cipher, error) {
	half := len(key) / 2
	data, err := aes.NewCipher(key[:half])
	if err != nil {
		return nil, fmt.Errorf("xts: key of %d bytes: %w", len(key), err)
	}
	tweak, err := aes.NewCipher(key[half:])
	if err != nil {
		return nil, fmt.Errorf("xts: key of %d bytes: %w", len(key), err)
	}
	return &Cipher{data: data, tweak: tweak}, nil
}

// Clone gives a Cipher of the same key for another thread.
func (c *Cipher) Clone() *Cipher { return &Cipher{data: c.data, tweak: c.tweak} }

// Encrypt encrypts a sector in place. Its length is a multiple of 16.
func (c *Cipher) Encrypt(sector []byte, number uint64) { c.crypt(sector, number, true) }

// Decrypt is the opposite of Encrypt.
func (c *Cipher) Decrypt(sector []byte, number uint64) { c.crypt(sector, number, false) }

// group is how many blocks share one call of XORBytes: it is quick from there on.
const group = 16

func (c *Cipher) crypt(sector []byte, number uint64, encrypt bool) {
	if len(sector)%aes.BlockSize != 0 {
		panic("xts: a sector that is not a multiple of 16 bytes")
	}
	binary.LittleEndian.PutUint64(c.first[:], number)
	clear(c.first[8:])
	c.tweak.Encrypt(c.first[:], c.first[:])
	lo, hi := binary.LittleEndian.Uint64(c.first[:]), binary.LittleEndian.Uint64(c.first[8:])
	for len(sector) > 0 {
		part := sector[:min(len(sector), len(c.tweaks))]
		for i := 0; i < len(part); i += aes.BlockSize {
			binary.LittleEndian.PutUint64(c.tweaks[i:], lo)
			binary.LittleEndian.PutUint64(c.tweaks[i+8:], hi)
			carry := hi >> 63
			hi = hi<<1 | lo>>63
			lo = lo<<1 ^ carry*0x87
		}
		subtle.XORBytes(part, part, c.tweaks[:len(part)])
		for i := 0; i < len(part); i += aes.BlockSize {
			b := part[i : i+aes.BlockSize]
			if encrypt {
				c.data.Encrypt(b, b)
			} else {
				c.data.Decrypt(b, b)
			}
		}
		subtle.XORBytes(part, part, c.tweaks[:len(part)])
		sector = sector[len(part):]
	}
}
