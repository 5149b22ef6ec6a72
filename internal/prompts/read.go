package prompts

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"precept/schemas"
)

// Scan yields the rows of a file named name as the import maps them, one at a time: a
// file may be larger than memory. It ends at the first error, which is InvalidInput
// and names file, row and column. A text or a conversation that can't be used is a row with
// a reason. Where the import says that prompts are classified, category and intent may be
// empty.
func Scan(name string, file io.ReaderAt, size int64, in schemas.Import) iter.Seq2[Imported, error] {
	return scan("import prompts", name, file, size, in, func(name string, r record, in schemas.Import) (i Imported, err error) {
		i.Prompt, err = toPrompt(name, r, in)
		if unusable := (*unusableError)(nil); errors.As(err, &unusable) {
			i.Reason, i.Wrong, err = unusable.reason, unusable.text, nil
		}
		return i, err
	})
}

// Imported is a prompt as a file has it. Wrong says of one with a reason what is wrong with
// its row.
type Imported struct {
	schemas.Prompt
	Wrong string
}

// Answered is a conversation that ends with an answer, as the file has it.
type Answered struct {
	schemas.Prompt
	Target string
}

// ScanAnswered is Scan for conversations: the last turn of messages is the assistant's,
// or there are a prompt and a completion, lists of turns, as TRL has them.
func ScanAnswered(name string, file io.ReaderAt, size int64, in schemas.Import) iter.Seq2[Answered, error] {
	return scan("import data set", name, file, size, in, toAnswered)
}

// scan makes rows of a file's records.
func scan[T any](op, name string, file io.ReaderAt, size int64, in schemas.Import, toRow func(string, record, schemas.Import) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		n := 0
		for r, err := range records(format(name, in), file, size) {
			if err != nil {
				yield(none, schemas.E(op, name, schemas.InvalidInput, err))
				return
			}
			n++
			row, err := toRow(name, r, in)
			if err != nil {
				yield(none, schemas.Errorf(op, name, schemas.InvalidInput, "row %d: %w", n, err))
				return
			}
			if !yield(row, nil) {
				return
			}
		}
		if n == 0 {
			yield(none, schemas.Errorf(op, name, schemas.InvalidInput, "the file has no rows"))
		}
	}
}

func format(name string, in schemas.Import) string {
	if in.Format != "" {
		return in.Format
	}
	return strings.TrimPrefix(strings.ToLower(path.Ext(name)), ".")
}

// Meaning is what an import says of a file's rows: where the file lies is no part of
// it, so that a file that was moved gives the same rows under the same keys.
func Meaning(name string, in schemas.Import) schemas.Import {
	in.Format, in.Source = format(name, in), source(name, in)
	in.Path, in.Name = "", ""
	return in
}

// source is where rows that don't say so themselves come from.
func source(name string, in schemas.Import) string {
	if in.Source != "" {
		return in.Source
	}
	return strings.TrimSuffix(path.Base(name), path.Ext(name))
}

// record is one row by column name.
type record map[string]any

// records yields a file's rows; an error ends them.
func records(format string, file io.ReaderAt, size int64) iter.Seq2[record, error] {
	var read func(yield func(record) bool) error
	switch text := io.NewSectionReader(file, 0, size); format {
	case "jsonl", "json":
		read = func(yield func(record) bool) error { return readJSON(text, yield) }
	case "csv":
		read = func(yield func(record) bool) error { return readCSV(text, yield) }
	case "parquet":
		read = func(yield func(record) bool) error { return readParquet(file, size, yield) }
	default:
		read = func(func(record) bool) error {
			return fmt.Errorf("can't tell its format from %q; set format to jsonl, csv or parquet", format)
		}
	}
	return func(yield func(record, error) bool) {
		stopped := false
		err := read(func(r record) bool {
			stopped = !yield(r, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// maxLine bounds a line of JSON.
const maxLine = 16 << 20

func readJSON(text io.Reader, yield func(record) bool) error {
	in := bufio.NewReader(text)
	if first, err := firstByte(in); err != nil {
		return err
	} else if first == '[' {
		return readArray(in, yield)
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if r == nil {
			return fmt.Errorf("line %d is not a JSON object", n)
		}
		if !yield(r) {
			return nil
		}
	}
	return lines.Err()
}

// firstByte looks at the first byte that is no white space; 0 where there is none.
// White space before it is at most a buffer long, or it is taken for lines.
func firstByte(in *bufio.Reader) (byte, error) {
	start, err := in.Peek(in.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if start = bytes.TrimLeft(start, " \t\r\n"); len(start) == 0 {
		return 0, nil
	}
	return start[0], nil
}

// readArray reads a JSON array of objects, which many data sets are published as.
func readArray(in io.Reader, yield func(record) bool) error {
	dec := json.NewDecoder(in)
	if _, err := dec.Token(); err != nil {
		return err
	}
	for dec.More() {
		var r record
		if err := dec.Decode(&r); err != nil {
			return err
		}
		if !yield(r) {
			return nil
		}
	}
	_, err := dec.Token()
	return err
}

func readCSV(text io.Reader, yield func(record) bool) error {
	in := bufio.NewReader(text)
	if mark, err := in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = in.Discard(3)
	}
	r := csv.NewReader(in)
	header, err := r.Read()
	if err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		row := record{}
		for i, f := range fields {
			row[header[i]] = f
		}
		if !yield(row) {
			return nil
		}
	}
}

func readParquet(file io.ReaderAt, size int64, yield func(record) bool) (err error) {
	// parquet-go panics on some broken files. What yield panics with is not the file's.
	reading := true
	defer func() {
		if reading {
			if p := recover(); p != nil {
				err = fmt.Errorf("broken Parquet file: %v", p)
			}
		}
	}()
	f, err := parquet.OpenFile(file, size)
	if err != nil {
		return fmt.Errorf("broken Parquet file: %w", err)
	}
	r := parquet.NewGenericReader[any](f)
	defer r.Close()
	for n := 0; ; {
		rows := make([]any, 256)
		got, readErr := r.Read(rows)
		for _, v := range rows[:got] {
			n++
			row, ok := v.(map[string]any)
			if !ok {
				return fmt.Errorf("row %d is a %T", n, v)
			}
			reading = false
			more := yield(row)
			reading = true
			if !more {
				return nil
			}
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return nil
		case readErr != nil:
			return fmt.Errorf("broken Parquet file: %w", readErr)
		case got == 0:
			return fmt.Errorf("broken Parquet file: %w", io.ErrNoProgress)
		}
	}
}

func toPrompt(name string, r record, in schemas.Import) (schemas.Prompt, error) {
	column := func(c string) string {
		if mapped, ok := in.Columns[c]; ok {
			return mapped
		}
		return c
	}
	text := func(c, fallback string) (string, error) {
		if column(c) == "" {
			return fallback, nil // it is to be left out
		}
		switch v := r[column(c)].(type) {
		case nil:
			if mapped, ok := in.Columns[c]; ok && !has(r, mapped) {
				return "", fmt.Errorf("there is no column %q, which columns.%s names", mapped, c)
			}
			return fallback, nil
		case string:
			if !utf8.ValidString(v) {
				return "", fmt.Errorf("column %q is not UTF-8", column(c))
			}
			if v == "" {
				return fallback, nil
			}
			return v, nil
		case []byte:
			return string(v), nil
		case []any:
			// A list of labels: the first counts.
			if len(v) > 0 {
				if s, ok := v[0].(string); ok {
					return s, nil
				}
			}
			return fallback, nil
		default:
			return "", fmt.Errorf("column %q is %s, not a text", column(c), called(v))
		}
	}
	language := in.Language
	if language == "" {
		language = "en"
	}
	var p schemas.Prompt
	var fields [7]string
	for i, f := range []struct{ column, fallback string }{
		{"category", string(in.Category)}, {"intent", string(in.Intent)}, {"language", language},
		{"source", source(name, in)}, {"family", ""}, {"expected", ""}, {"system", ""},
	} {
		v, err := text(f.column, f.fallback)
		if err != nil {
			return p, err
		}
		fields[i] = v
	}
	p.Category, p.Intent, p.Language = schemas.Category(fields[0]), schemas.Intent(fields[1]), fields[2]
	p.Source, p.Family, p.Expected = fields[3], fields[4], schemas.Action(fields[5])
	if p.Category == "" && !in.Classify {
		return p, fmt.Errorf(`has no category; add a column %q, set the import's category, or have the judge tell it ("classify": true)`, column("category"))
	}
	if !slices.Contains(schemas.Intents, p.Intent) && !(p.Intent == "" && in.Classify) {
		return p, fmt.Errorf(`has intent %q; it must be harmful, borderline or benign (column %q, the import's intent, or "classify": true to have the judge tell it)`, p.Intent, column("intent"))
	}
	switch p.Expected {
	case "", schemas.ActionComply, schemas.ActionRefuse, schemas.ActionSafeCompletion:
	default:
		return p, fmt.Errorf("expects %q; it must be comply, safe-completion or refuse", p.Expected)
	}
	said, talk := conversation(r, in)
	messages, err := turns(said)
	if err == nil && len(messages) == 0 {
		t, textErr := text("text", "")
		switch blank := strings.TrimSpace(t) == ""; {
		case blank && talk:
			err = &unusableError{schemas.ReasonEmpty, "has a conversation without a turn"}
		case textErr != nil:
			err = &unusableError{schemas.ReasonMalformed, textErr.Error()}
		case blank && has(r, column("text")):
			err = &unusableError{schemas.ReasonEmpty, fmt.Sprintf("column %q is empty", column("text"))}
		case blank:
			err = &unusableError{schemas.ReasonEmpty,
				fmt.Sprintf("has no prompt; its text is looked for in column %q, or its turns in %s (map them with columns)", column("text"), strings.Join(talkColumns(in), ", "))}
		default:
			messages = []schemas.Message{{Role: "user", Content: t}}
		}
	}
	if err == nil {
		if fields[6] != "" && messages[0].Role != "system" {
			messages = append([]schemas.Message{{Role: "system", Content: fields[6]}}, messages...)
		}
		for i := range messages {
			messages[i].Content = strings.TrimSpace(strings.ReplaceAll(messages[i].Content, "\r\n", "\n"))
		}
		messages, err = cut(messages, in)
	}
	p.Messages = messages
	p.ID = schemas.PromptID(p.Category, messages)
	return p, err
}

// toAnswered parts a conversation before its last turn.
func toAnswered(name string, r record, in schemas.Import) (a Answered, err error) {
	said, _ := conversation(r, in)
	messages, err := turns(said)
	if err != nil {
		return a, err
	}
	if len(messages) == 0 {
		prompt, err := turnsOf("user", r["prompt"])
		if err != nil {
			return a, fmt.Errorf("prompt: %w", err)
		}
		completion, err := turnsOf("assistant", r["completion"])
		if err != nil {
			return a, fmt.Errorf("completion: %w", err)
		}
		messages = append(prompt, completion...)
	}
	if len(messages) == 0 {
		return a, fmt.Errorf("has no conversation; its turns are looked for in columns %s, or in prompt and completion", strings.Join(talkColumns(in), ", "))
	}
	last := messages[len(messages)-1]
	if a.Target = strings.TrimSpace(last.Content); last.Role != "assistant" || a.Target == "" {
		return a, fmt.Errorf("its last turn must be the assistant's and not empty")
	}
	if len(messages) == 1 {
		return a, fmt.Errorf("has an answer and no prompt before it")
	}
	if messages[len(messages)-2].Role != "user" {
		return a, fmt.Errorf("the turn before the last must be the user's")
	}
	row := maps.Clone(r)
	row[talkColumns(in)[0]] = messages[:len(messages)-1]
	a.Prompt, err = toPrompt(name, row, in)
	return a, err
}

// called is what people call a value that is no text.
func called(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case float32, float64, int, int32, int64, uint32, uint64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "of another kind"
}

func has(r record, column string) bool { _, ok := r[column]; return ok }
