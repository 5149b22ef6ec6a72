package eval

import (
	"strings"
	"unicode"

	"precept/schemas"
)

// CitedCategory is the category that a chain of thought names, by its slug or
// the slug's words, or "". A name beside the word "policy" counts before any
// other, since the restated request may hold such a word too ("the history of
// violence"); among equals the first named counts.
func CitedCategory(cot string, categories []schemas.Category) schemas.Category {
	text := words(cot)
	for _, beside := range [][2]string{{" policy", ""}, {"", "policy "}, {"", ""}} {
		cited, first, longest := schemas.Category(""), len(text), 0
		for _, c := range categories {
			name := words(string(c))
			if name == " " {
				continue
			}
			at := strings.Index(text, beside[0]+name+beside[1])
			if at < 0 || at > first || at == first && len(name) <= longest {
				continue
			}
			cited, first, longest = c, at, len(name)
		}
		if cited != "" {
			return cited
		}
	}
	return ""
}

// words is s in lower case with a space before, between and after its words, so
// that a whole word can be found as a string.
func words(s string) string {
	fields := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r)
	})
	if len(fields) == 0 {
		return " "
	}
	return " " + strings.Join(fields, " ") + " "
}
