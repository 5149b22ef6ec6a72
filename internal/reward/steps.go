package reward

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"precept/schemas"
)

// steps are rollouts by step and by their place in it. What is asked for again replaces what
// it gave; the processes that train together each have places of their own.
type steps map[int32]map[int32]schemas.Rollout

func (s steps) put(rollouts []schemas.Rollout) {
	for _, r := range rollouts {
		if s[r.Step] == nil {
			s[r.Step] = map[int32]schemas.Rollout{}
		}
		s[r.Step][r.Index] = r
	}
}

// all are the rollouts of a step in their order.
func (s steps) all(step int32) (all []schemas.Rollout) {
	for _, i := range slices.Sorted(maps.Keys(s[step])) {
		all = append(all, s[step][i])
	}
	return all
}

// missing is how many rewards of a step are missing, but for those of the process rank,
// which has n: a judge could not be reached.
func (s steps) missing(step, rank int32, n int) (missing int) {
	for i, r := range s[step] {
		if i/int32(max(1, n)) != rank && r.Reward == nil && !r.Lost {
			missing++
		}
	}
	return missing
}

// flat is how many steps in a row, step the last of them, taught nothing: no two rewards of
// a group differ. A step that is not all there yet is not flat, nor is one without two
// rewards to compare.
func (s steps) flat(step int32, all, group int) (n int) {
	if len(s[step]) < all {
		return 0
	}
	for ; ; step-- {
		if compared, differ := spread(s.all(step), group); !compared || differ {
			return n
		}
		n++
	}
}

// spread reports whether there are rewards within a group to be compared, and whether any
// of them differ. A reward that is missing says nothing.
func spread(rollouts []schemas.Rollout, group int) (compared, differ bool) {
	for group := range slices.Chunk(rollouts, max(1, group)) {
		var first *float64
		for _, r := range group {
			switch {
			case r.Reward == nil:
			case first == nil:
				first = r.Reward
			default:
				compared = true
				if *r.Reward != *first {
					return true, true
				}
			}
		}
	}
	return compared, false
}

// Rollouts returns what was rewarded so far, in the order of steps.
func (s *Server) Rollouts() (all []schemas.Rollout) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, step := range slices.Sorted(maps.Keys(s.steps)) {
		all = append(all, s.steps.all(step)...)
	}
	return all
}

// Flat reports whether no step so far taught anything.
func (s *Server) Flat() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	any := false
	for step := range s.steps {
		compared, differ := spread(s.steps.all(step), s.Group)
		if differ {
			return false
		}
		any = any || compared
	}
	return any
}

// Rewind forgets the rollouts of step and later ones.
func (s *Server) Rewind(step int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.steps, func(at int32, _ map[int32]schemas.Rollout) bool { return int(at) >= step })
}

// MarshalJSON writes the rollouts, for a checkpoint.
func (s *Server) MarshalJSON() ([]byte, error) { return json.Marshal(s.Rollouts()) }

// UnmarshalJSON brings back a checkpoint's rollouts in place of all others.
func (s *Server) UnmarshalJSON(b []byte) error {
	var rollouts []schemas.Rollout
	if err := json.Unmarshal(b, &rollouts); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.steps)
	s.steps.put(rollouts)
	return nil
}

// MissingError ends a job: the judge could not be asked about so many of a step's
// completions that the others say little of it.
type MissingError struct {
	Step        int32
	Missing, Of int
	Max         float64
	Cause       error // of the last one
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("at least %d of the %d rewards of step %d are missing, more than max_missing %.0f%%: %v", e.Missing, e.Of, e.Step+1, 100*e.Max, e.Cause)
}

func (e *MissingError) Unwrap() error { return e.Cause }

// FlatError ends a job: for so many steps, the completions of a prompt got the same reward
// every time, and GRPO learns from their differences alone.
type FlatError struct {
	Step  int32
	Steps int
	Last  []schemas.Rollout // of the last step
}

func (e *FlatError) Error() string {
	return fmt.Sprintf("no two completions of a prompt were rewarded differently in the %d steps up to step %d: there is nothing to learn from", e.Steps, e.Step+1)
}
