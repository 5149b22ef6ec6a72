package shard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"precept/schemas"
)

// groupRows bounds a row group, which writer and reader hold in memory whole.
const groupRows = 5_000

// pageBytes bounds a page before it is compressed.
const pageBytes = 4 << 20

// Encode writes rows as a Parquet file. Equal rows and metadata give equal bytes,
// whatever build of Precept writes them.
func Encode[T any](rows []T, meta map[string]string) ([]byte, error) {
	options := []parquet.WriterOption{
		parquet.Compression(&zstd.Codec{Level: zstd.SpeedDefault}),
		parquet.MaxRowsPerRowGroup(groupRows),
		// Texts are compressed a page at a time, and together they take less; a page's
		// statistics would be two whole texts more.
		parquet.PageBufferSize(pageBytes),
		parquet.DataPageStatistics(false),
		// The default names the build.
		parquet.CreatedBy("precept", "", ""),
	}
	for _, name := range slices.Sorted(maps.Keys(meta)) {
		options = append(options, parquet.KeyValueMetadata(name, meta[name]))
	}
	var out bytes.Buffer
	w := parquet.NewGenericWriter[T](&out, options...)
	if _, err := w.Write(rows); err != nil {
		return nil, schemas.E("encode", fmt.Sprintf("%T", rows), schemas.Internal, err)
	}
	if err := w.Close(); err != nil {
		return nil, schemas.E("encode", fmt.Sprintf("%T", rows), schemas.Internal, err)
	}
	return out.Bytes(), nil
}

// Decode reads the rows of a Parquet file. The file may have more columns than T,
// but must have all of T's that aren't optional.
func Decode[T any](b []byte) (rows []T, err error) {
	err = guard("decode", fmt.Sprintf("%T", rows), func() error {
		f, err := openParquet(b)
		if err != nil {
			return err
		}
		if missing := missing(parquet.SchemaOf(new(T)), f.Schema()); len(missing) > 0 {
			return fmt.Errorf("the file has no column %s", strings.Join(missing, ", "))
		}
		r := parquet.NewGenericReader[T](f)
		defer r.Close()
		for {
			// What the footer says of the number of rows is not to be trusted.
			chunk := make([]T, 1024)
			n, err := r.Read(chunk)
			rows = append(rows, chunk[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return io.ErrNoProgress
			}
		}
		if int64(len(rows)) != f.NumRows() {
			return fmt.Errorf("%d rows, but the footer says %d", len(rows), f.NumRows())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// decodeMeta reads a Parquet file's metadata.
func decodeMeta(b []byte, names ...string) (meta map[string]string, rows int64, err error) {
	meta = map[string]string{}
	err = guard("decode", "metadata", func() error {
		f, err := openParquet(b)
		if err != nil {
			return err
		}
		rows = f.NumRows()
		for _, name := range names {
			meta[name], _ = f.Lookup(name)
		}
		return nil
	})
	return meta, rows, err
}

// openParquet checks what the library believes and makes room for: the length of
// the footer, which stands before the last four bytes.
func openParquet(b []byte) (*parquet.File, error) {
	const frame = len("PAR1") + 4 + len("PAR1")
	if len(b) < frame {
		return nil, fmt.Errorf("%d bytes are too few for a Parquet file", len(b))
	}
	if footer := binary.LittleEndian.Uint32(b[len(b)-8:]); uint64(footer) > uint64(len(b)-frame) {
		return nil, fmt.Errorf("the footer would have %d bytes, the file has %d", footer, len(b))
	}
	return parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
}

// guard makes any failure to read bytes, panics of the Parquet library included,
// an InvalidInput error.
func guard(op, thing string, read func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = schemas.Errorf(op, thing, schemas.InvalidInput, "broken Parquet file: %v", r)
		}
	}()
	if err := read(); err != nil {
		return schemas.E(op, thing, schemas.InvalidInput, err)
	}
	return nil
}

// missing names the columns of want that got lacks, optional ones apart.
func missing(want, got *parquet.Schema) (names []string) {
	for _, column := range want.Columns() {
		leaf, _ := want.Lookup(column...)
		if leaf.Node.Optional() {
			continue
		}
		if _, ok := got.Lookup(column...); !ok {
			names = append(names, strings.Join(column, "."))
		}
	}
	return names
}
