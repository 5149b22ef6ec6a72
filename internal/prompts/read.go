package prompts

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"precept/schemas"
)

// Read reads the rows of a file named name as the import maps them. An error is
// InvalidInput and names file, row and column.
func Read(name string, raw []byte, in schemas.Import) ([]schemas.Prompt, error) {
	const op = "import prompts"
	records, err := decode(format(name, in), raw)
	if err != nil {
		return nil, schemas.E(op, name, schemas.InvalidInput, err)
	}
	if len(records) == 0 {
		return nil, schemas.Errorf(op, name, schemas.InvalidInput, "the file has no rows")
	}
	rows := make([]schemas.Prompt, len(records))
	for i, r := range records {
		if rows[i], err = toPrompt(name, r, in); err != nil {
			return nil, schemas.Errorf(op, name, schemas.InvalidInput, "row %d: %w", i+1, err)
		}
	}
	return rows, nil
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

func decode(format string, raw []byte) ([]record, error) {
	switch format {
	case "jsonl", "json":
		return decodeJSONL(raw)
	case "csv":
		return decodeCSV(raw)
	case "parquet":
		return decodeParquet(raw)
	}
	return nil, fmt.Errorf("can't tell its format from %q; set format to jsonl, csv or parquet", format)
}

func decodeJSONL(raw []byte) (out []record, err error) {
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		// A JSON array of objects, which many data sets are published as.
		if err := json.Unmarshal(raw, &out); err != nil {
			return nil, err
		}
		return out, nil
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 16<<20)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if r == nil {
			return nil, fmt.Errorf("line %d is not a JSON object", n)
		}
		out = append(out, r)
	}
	return out, lines.Err()
}

func decodeCSV(raw []byte) (out []record, err error) {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\ufeff"))))
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		row := record{}
		for i, f := range fields {
			row[header[i]] = f
		}
		out = append(out, row)
	}
}

func decodeParquet(raw []byte) (out []record, err error) {
	// parquet-go panics on some broken files.
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("broken Parquet file: %v", p)
		}
	}()
	rows, err := parquet.Read[any](bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, fmt.Errorf("broken Parquet file: %w", err)
	}
	for i, r := range rows {
		m, ok := r.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("row %d is a %T", i+1, r)
		}
		out = append(out, m)
	}
	return out, nil
}

func toPrompt(name string, r record, in schemas.Import) (schemas.Prompt, error) {
	column := func(c string) string {
		if mapped, ok := in.Columns[c]; ok {
			return mapped
		}
		return c
	}
	text := func(c, fallback string) (string, error) {
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
			return "", fmt.Errorf("column %q is a %T, not a string", column(c), v)
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
	if p.Category == "" {
		return p, fmt.Errorf("has no category; add a column %q or set the import's category", column("category"))
	}
	if !slices.Contains(schemas.Intents, p.Intent) {
		return p, fmt.Errorf("has intent %q; it must be harmful, borderline or benign (column %q or the import's intent)", p.Intent, column("intent"))
	}
	switch p.Expected {
	case "", schemas.ActionComply, schemas.ActionRefuse, schemas.ActionSafeCompletion:
	default:
		return p, fmt.Errorf("expects %q; it must be comply, safe-completion or refuse", p.Expected)
	}
	messages, err := turns(r[column("messages")])
	if err != nil {
		return p, err
	}
	if len(messages) == 0 {
		t, err := text("text", "")
		if err != nil {
			return p, err
		}
		if strings.TrimSpace(t) == "" {
			return p, fmt.Errorf("has no prompt; its text is looked for in column %q, or its turns in %q (map them with columns)", column("text"), column("messages"))
		}
		messages = []schemas.Message{{Role: "user", Content: t}}
	}
	if fields[6] != "" && messages[0].Role != "system" {
		messages = append([]schemas.Message{{Role: "system", Content: fields[6]}}, messages...)
	}
	for i := range messages {
		messages[i].Content = strings.TrimSpace(strings.ReplaceAll(messages[i].Content, "\r\n", "\n"))
	}
	if last := messages[len(messages)-1]; last.Role != "user" || last.Content == "" {
		return p, fmt.Errorf("its last turn must be the user's and not empty")
	}
	p.Messages = messages
	p.ID = schemas.PromptID(p.Category, messages)
	return p, nil
}

func has(r record, column string) bool { _, ok := r[column]; return ok }

// turns reads a list of {role, content}.
func turns(v any) ([]schemas.Message, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("messages: %w", err)
	}
	var out []schemas.Message
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("messages must be a list of {role, content}: %w", err)
	}
	for i, m := range out {
		if !slices.Contains([]string{"system", "user", "assistant"}, m.Role) || (m.Role == "system" && i > 0) {
			return nil, fmt.Errorf("turn %d has role %q; use an optional system turn, then user and assistant", i+1, m.Role)
		}
	}
	return out, nil
}
