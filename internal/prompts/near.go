package prompts

import (
	"cmp"
	"context"
	"encoding/binary"
	"hash/fnv"
	"io"
	"iter"
	"math"
	"math/rand/v2"
	"slices"

	"precept/schemas"
)

// Near finds near-duplicates by MinHash and locality-sensitive hashing (Broder 1997;
// Indyk and Motwani 1998). A row's signature is the least hash of its shingles,
// three words in a row, under each of many hash functions: two rows agree in as large
// a share of them as they share shingles. Rows that agree in a whole band of hashes
// are compared. Signatures and bands stand in files, so that memory does not grow
// with the rows.
type Near struct {
	threshold  float64
	rows       int
	signatures *scratch
	bands      [bands]*scratch
}

const (
	shingle = 3
	// Rows that share 0.8 of their shingles meet in a band with probability 0.998,
	// those that share 0.5 with 0.27.
	bands      = 20
	bandHashes = 6
	hashes     = bands * bandHashes

	// sortedRows is how many rows of a band are sorted in memory at a time.
	sortedRows = 4 << 20
	// compared is with how many of the earliest rows of a band a row is compared.
	compared = 8
)

type signature [hashes]uint32

// permutations are the hash functions' multipliers and summands, fixed for ever: the
// same rows have the same near-duplicates.
var permutations = func() (p [hashes][2]uint64) {
	r := rand.New(rand.NewPCG(2, 1997))
	for i := range p {
		p[i] = [2]uint64{r.Uint64() | 1, r.Uint64()}
	}
	return p
}()

// NewNear looks for rows that share at least threshold (0 to 1) of their shingles with
// an earlier row of their category. Its files lie in dir. Close it.
func NewNear(dir string, threshold float64) (*Near, error) {
	n := &Near{threshold: threshold}
	var err error
	if n.signatures, err = newScratch(dir, "signatures"); err != nil {
		return nil, err
	}
	for i := range n.bands {
		if n.bands[i], err = newScratch(dir, "band"); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

// Close removes the files.
func (n *Near) Close() {
	n.signatures.close()
	for _, b := range n.bands {
		if b != nil {
			b.close()
		}
	}
}

// Skip takes the next row as one that nothing resembles, because it is rejected anyway.
func (n *Near) Skip() error {
	if err := n.signatures.write(make([]uint32, hashes)); err != nil {
		return err
	}
	for _, b := range n.bands {
		// A key of its own: it meets another by chance only, and is compared then.
		if err := b.write(uint64(n.rows) * 0x9e3779b97f4a7c15); err != nil {
			return err
		}
	}
	n.rows++
	return nil
}

// Add takes the next row.
func (n *Near) Add(p schemas.Prompt) error {
	s := sign(p)
	if err := n.signatures.write(s[:]); err != nil {
		return err
	}
	for i, b := range n.bands {
		h := fnv.New64a()
		io.WriteString(h, string(p.Category))
		var raw [4]byte
		for _, v := range s[i*bandHashes : (i+1)*bandHashes] {
			binary.LittleEndian.PutUint32(raw[:], v)
			h.Write(raw[:])
		}
		if err := b.write(h.Sum64()); err != nil {
			return err
		}
	}
	n.rows++
	return nil
}

func sign(p schemas.Prompt) (s signature) {
	for i := range s {
		s[i] = math.MaxUint32
	}
	for g := range shingles(p) {
		f := fnv.New64a()
		io.WriteString(f, g)
		h := f.Sum64()
		for i, p := range permutations {
			s[i] = min(s[i], uint32((h*p[0]+p[1])>>32))
		}
	}
	return s
}

// shingles yields the shingles of all turns, each with its role: conversations that
// end in the same words are not the same.
func shingles(p schemas.Prompt) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, m := range p.Messages {
			for _, g := range grams(wordsOrSigns(m.Content), shingle) {
				if !yield(m.Role + " " + g) {
					return
				}
			}
		}
	}
}

// Duplicates tells which rows are near-duplicates of earlier ones.
func (n *Near) Duplicates(ctx context.Context) (*Rows, error) {
	found := newRows(n.rows)
	for _, b := range n.bands {
		parts := uint64(n.rows/sortedRows + 1)
		for part := range parts {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := n.meet(b, part, parts, found); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// meet compares the rows of one part of a band that fell together.
func (n *Near) meet(band *scratch, part, parts uint64, found *Rows) error {
	type entry struct {
		key uint64
		row uint32
	}
	var entries []entry
	err := band.read(8, func(row int, raw []byte) {
		if key := binary.LittleEndian.Uint64(raw); key%parts == part {
			entries = append(entries, entry{key, uint32(row)})
		}
	})
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(x, y entry) int { return cmp.Or(cmp.Compare(x.key, y.key), cmp.Compare(x.row, y.row)) })
	for start := 0; start < len(entries); {
		end := start + 1
		for end < len(entries) && entries[end].key == entries[start].key {
			end++
		}
		group := entries[start:end]
		start = end
		if len(group) < 2 {
			continue
		}
		first := make([]signature, min(len(group), compared))
		for i := range first {
			if first[i], err = n.signature(group[i].row); err != nil {
				return err
			}
		}
		for i, e := range group[1:] {
			if found.Has(int(e.row)) {
				continue
			}
			s, err := n.signature(e.row)
			if err != nil {
				return err
			}
			for _, earlier := range first[:min(i+1, len(first))] {
				if similar(s, earlier) >= n.threshold {
					found.add(int(e.row))
					break
				}
			}
		}
	}
	return nil
}

func (n *Near) signature(row uint32) (s signature, err error) {
	var raw [4 * hashes]byte
	if err := n.signatures.readAt(raw[:], int64(row)*int64(len(raw))); err != nil {
		return s, err
	}
	for i := range s {
		s[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return s, nil
}

// similar estimates which share of their shingles two rows have in common.
func similar(a, b signature) float64 {
	same := 0
	for i := range a {
		if a[i] == b[i] {
			same++
		}
	}
	return float64(same) / hashes
}

// Rows is a set of row numbers.
type Rows struct{ bits []uint64 }

func newRows(n int) *Rows { return &Rows{make([]uint64, (n+63)/64)} }

// Has reports whether a row is in the set.
func (r *Rows) Has(row int) bool { return r.bits[row/64]&(1<<(row%64)) != 0 }

func (r *Rows) add(row int) { r.bits[row/64] |= 1 << (row % 64) }
