package prompts

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"precept/schemas"
)

// Row is a prompt on its way from a file to its bucket. Number is its place in import
// order.
type Row struct {
	Prompt schemas.Prompt `json:"prompt"`
	Number int            `json:"number"`
}

// Spill parts rows over files and gives them back a part at a time.
type Spill struct{ parts []*scratch }

// NewSpill makes the files in dir. Close it.
func NewSpill(dir string, parts int) (*Spill, error) {
	s := &Spill{}
	for range parts {
		f, err := newScratch(dir, "part")
		if err != nil {
			s.Close()
			return nil, err
		}
		s.parts = append(s.parts, f)
	}
	return s, nil
}

// Close removes the files.
func (s *Spill) Close() {
	for _, p := range s.parts {
		p.close()
	}
}

// Add puts a row into a part.
func (s *Spill) Add(part int, r Row) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return schemas.E("spill prompt", r.Prompt.ID, schemas.Internal, err)
	}
	if _, err := s.parts[part].w.Write(append(raw, '\n')); err != nil {
		return scratchError(s.parts[part].file.Name(), err)
	}
	return nil
}

// Rows returns a part's rows in the order in which they were added.
func (s *Spill) Rows(part int) (rows []Row, err error) {
	f := s.parts[part]
	in, err := f.rewind()
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(in)
	for {
		var r Row
		err := dec.Decode(&r)
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, scratchError(f.file.Name(), err)
		}
		rows = append(rows, r)
	}
}

// scratch is a file that is written, then read. It has no name: it is gone with the
// process.
type scratch struct {
	file *os.File
	w    *bufio.Writer
}

func newScratch(dir, name string) (*scratch, error) {
	f, err := os.CreateTemp(dir, name+"-*")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, scratchError(dir, err)
	}
	return &scratch{f, bufio.NewWriterSize(f, 64<<10)}, nil
}

func scratchError(path string, err error) error {
	return schemas.E("use scratch space", filepath.Dir(path), schemas.Unavailable, err).
		WithHint("Make room there, or set trainer.work_dir in the worker's configuration.")
}

func (s *scratch) close() { s.file.Close() }

// write appends data, a fixed-size value in little-endian bytes.
func (s *scratch) write(data any) error {
	if err := binary.Write(s.w, binary.LittleEndian, data); err != nil {
		return scratchError(s.file.Name(), err)
	}
	return nil
}

// rewind returns a reader of all that was written.
func (s *scratch) rewind() (*bufio.Reader, error) {
	err := s.w.Flush()
	if err == nil {
		_, err = s.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, scratchError(s.file.Name(), err)
	}
	return bufio.NewReaderSize(s.file, 256<<10), nil
}

// read yields the values, each of size bytes, from the start.
func (s *scratch) read(size int, each func(i int, raw []byte)) error {
	r, err := s.rewind()
	if err != nil {
		return err
	}
	raw := make([]byte, size)
	for i := 0; err == nil; i++ {
		if _, err = io.ReadFull(r, raw); err == nil {
			each(i, raw)
		}
	}
	if !errors.Is(err, io.EOF) {
		return scratchError(s.file.Name(), err)
	}
	return nil
}

func (s *scratch) readAt(raw []byte, at int64) error {
	err := s.w.Flush()
	if err == nil {
		_, err = s.file.ReadAt(raw, at)
	}
	if err != nil {
		return scratchError(s.file.Name(), err)
	}
	return nil
}
