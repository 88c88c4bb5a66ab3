package compress

// warm takes pages of several kinds through a codec, there and back, so that
// what a library makes on its first use is made now and not on the I/O path.
func warm(c codec) { warmBoth(c, c) }

// warmBoth is warm for one that compresses and one that decompresses.
func warmBoth(c, reader codec) {
	var page, back [PageSize]byte
	out := make([]byte, outSize)
	seed := uint32(1)
	random := func() uint32 { // xorshift
		seed ^= seed << 13
		seed ^= seed >> 17
		seed ^= seed << 5
		return seed
	}
	// From pages of few symbols to pages of all 256, with matches near and far
	// and with none, so that each kind of block and of table is met.
	for symbols := uint32(1); symbols <= 256; symbols *= 2 {
		for _, repeat := range []uint32{0, 4, 64} {
			for i := 0; i < PageSize; {
				if length := random() % 40; repeat != 0 && i > 64 && random()%repeat == 0 {
					for from := int(random() % uint32(i)); length > 0 && i < PageSize; length-- {
						page[i] = page[from]
						i++
						from++
					}
					continue
				}
				// The smaller of two: symbols that differ in how frequent they are.
				page[i] = byte(min(random()%symbols, random()%symbols))
				i++
			}
			if n := c.compress(out, &page); n > 0 && n < PageSize {
				reader.decompress(&back, out[:n])
			}
		}
	}
}
