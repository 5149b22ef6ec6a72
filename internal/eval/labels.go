package eval

import "precept/schemas"

// CheckLabels compares what the judge says of labelled prompts with their labels.
func CheckLabels(checks []schemas.Label) schemas.LabelCheck {
	c := schemas.LabelCheck{ByCategory: map[schemas.Category]schemas.CategoryCheck{}}
	var categories, intents [][2]string
	for _, l := range checks {
		if l.Reason != schemas.ReasonCheck {
			continue // it could not be shown to the judge
		}
		categories = append(categories, [2]string{string(l.Prompt.Category), string(l.Category)})
		intents = append(intents, [2]string{string(l.Prompt.Intent), string(l.Intent)})
		labelled := c.ByCategory[l.Prompt.Category]
		labelled.Labelled++
		if l.Category == l.Prompt.Category {
			labelled.Agree++
		}
		c.ByCategory[l.Prompt.Category] = labelled
		if l.Category != "" && l.Category != schemas.NoCategory {
			told := c.ByCategory[l.Category]
			told.Told++
			c.ByCategory[l.Category] = told
		}
	}
	c.Category, c.Intent = figureOf(categories), figureOf(intents)
	return c
}

// figureOf counts the pairs whose sides are the same, and how far that is beyond chance:
// Cohen's kappa, whose chance is that of both sides' own frequencies.
func figureOf(pairs [][2]string) (f schemas.LabelFigure) {
	left, right := map[string]int64{}, map[string]int64{}
	for _, p := range pairs {
		f.N++
		left[p[0]]++
		right[p[1]]++
		if p[0] == p[1] {
			f.Agree++
		}
	}
	if f.N == 0 {
		return f
	}
	// In whole numbers, so that the sum is the same in any order.
	var chance int64 // of N·N
	for word, k := range left {
		chance += k * right[word]
	}
	if n := f.N * f.N; chance < n {
		f.Kappa = new(float64(f.Agree*f.N-chance) / float64(n-chance))
	}
	return f
}
