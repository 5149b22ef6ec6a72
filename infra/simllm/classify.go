package main

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"

	"precept/infra/simllm/reading"
)

// label is the judge's answer where it classifies.
type label struct {
	Category string `json:"category"`
	Second   string `json:"second"`
	Intent   string `json:"intent"`
	Reason   string `json:"reason"`
}

const noCategory = "none"

var summaryLine = regexp.MustCompile(`^- \*\*([a-z-]+)\*\*: (.*)$`)

// subject is a category as its summary tells: what its words are about.
type subject struct {
	name  string
	marks map[string]float64
}

// readSubjects reads the summaries in a request.
func readSubjects(system string) (subjects []subject) {
	block := between(system, "<categories>", "</categories>")
	for line := range strings.Lines(block) {
		m := summaryLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		s := subject{m[1], map[string]float64{}}
		for mark := range reading.Marks(m[2]) {
			if !strings.HasPrefix(mark, "class ") {
				s.marks[mark] = 1
			}
		}
		subjects = append(subjects, s)
	}
	// A word tells a category as far as it is in that one's summary alone.
	in := map[string]float64{}
	for _, s := range subjects {
		for word := range s.marks {
			in[word]++
		}
	}
	for _, s := range subjects {
		for word := range s.marks {
			s.marks[word] = 1 / (in[word] * in[word])
		}
		maps.Copy(s.marks, reading.Subject(s.name))
	}
	return subjects
}

// classify answers the conversation as the judge that classifies: by the words that a
// prompt shares with a summary, and by what the lexicon knows of both.
func (s *server) classify(system, user string, r *rand.Rand) string {
	subjects := readSubjects(system)
	if len(subjects) == 0 {
		return `{"error":"simulated judge: the system message holds no <categories> block"}`
	}
	turns := readSubmission(system, user).turns
	b, err := json.Marshal(classified(subjects, turns, r))
	if err != nil {
		return `{"error":"simulated judge: ` + err.Error() + `"}`
	}
	return string(b)
}

func classified(subjects []subject, turns []string, r *rand.Rand) label {
	request := turns[len(turns)-1]
	scores := make([]float64, len(subjects))
	order := make([]int, len(subjects))
	for i, s := range subjects {
		order[i] = i
		for mark := range reading.Marks(request) {
			scores[i] += s.marks[mark]
		}
		// Where two categories are near each other, votes differ.
		scores[i] *= 1 + 0.1*(r.Float64()-0.5)
	}
	slices.SortStableFunc(order, func(x, y int) int {
		switch {
		case scores[x] > scores[y]:
			return -1
		case scores[x] < scores[y]:
			return 1
		}
		return 0
	})
	first, second := order[0], order[min(1, len(order)-1)]
	l := label{Category: noCategory, Second: noCategory, Reason: "Simulated: its words are of no category."}
	if scores[first] >= 0.25 {
		l.Category = subjects[first].name
		l.Reason = "Simulated: its words are nearest to the summary of " + l.Category + "."
	}
	if second != first && scores[second] >= 0.25 && scores[second] > 0.8*scores[first] {
		l.Second = subjects[second].name
	}
	l.Intent = intentOf(reading.Read(request, strings.Join(turns[:len(turns)-1], "\n"), reading.Hints{}))
	return l
}

// intentOf takes a request's intent from its reading.
func intentOf(q reading.Reading) string {
	switch {
	case q.Harmful:
		return "harmful"
	case q.Act == reading.Help || !q.Clear:
		return "borderline"
	}
	return "benign"
}
