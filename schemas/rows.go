package schemas

import "strings"

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role" parquet:"role,dict"`
	Content string `json:"content" parquet:"content"`
}

// Prompt is one request to a model. Reason is empty for a kept row, else why it
// was rejected.
type Prompt struct {
	ID       string    `json:"id" parquet:"id"`
	Messages []Message `json:"messages" parquet:"messages,list"`
	Category Category  `json:"category" parquet:"category,dict"`
	// Second is another category that a classified prompt belongs to; for people.
	Second   Category `json:"second,omitempty" parquet:"second,dict"`
	Intent   Intent   `json:"intent" parquet:"intent,dict"`
	Language string   `json:"language" parquet:"language,dict"`
	Source   string   `json:"source" parquet:"source,dict"`
	Family   string   `json:"family,omitempty" parquet:"family,dict"`
	// Expected is a suite's label: what a good answer does. It is empty for
	// training prompts and never shown to a model.
	Expected Action `json:"expected,omitempty" parquet:"expected,dict"`
	Reason   Reason `json:"reason,omitempty" parquet:"reason,dict"`
}

// PromptID derives a prompt's ID from what identifies it: category and messages.
func PromptID(category Category, messages []Message) string {
	return string(DigestOf(struct {
		Category Category  `json:"category"`
		Messages []Message `json:"messages"`
	}{category, messages})[:24])
}

// Text is the last user turn.
func (p Prompt) Text() string {
	for i := len(p.Messages) - 1; i >= 0; i-- {
		if p.Messages[i].Role == "user" {
			return p.Messages[i].Content
		}
	}
	return ""
}

// Completion is one sample of a model for a prompt. Usage, latency and cost
// stand in the journal and the manifest, not here: a shard holds only what
// follows from its key.
type Completion struct {
	ID           string        `json:"id" parquet:"id"`
	Prompt       Prompt        `json:"prompt" parquet:"prompt"`
	Suite        string        `json:"suite,omitempty" parquet:"suite,dict"`
	Arm          Arm           `json:"arm,omitempty" parquet:"arm,dict"`
	Model        ModelIdentity `json:"model" parquet:"model,dict"`
	Sample       int32         `json:"sample" parquet:"sample"`
	CoT          string        `json:"cot" parquet:"cot"`
	Answer       string        `json:"answer" parquet:"answer"`
	FinishReason string        `json:"finish_reason" parquet:"finish_reason,dict"`
	Request      Key           `json:"request" parquet:"request"`
	Reason       Reason        `json:"reason,omitempty" parquet:"reason,dict"`
}

// Vote is one judge call's opinion of one completion. Scores run from 0 to 10;
// Citation is -1 where the judge doesn't see the CoT. Score is the vote's
// fold, 0 to 1.
type Vote struct {
	Expected    Action  `json:"expected" parquet:"expected,dict"`
	Rule        string  `json:"rule" parquet:"rule,dict"`
	Action      Action  `json:"action" parquet:"action,dict"`
	Compliance  int32   `json:"compliance" parquet:"compliance"`
	Helpfulness int32   `json:"helpfulness" parquet:"helpfulness"`
	Style       int32   `json:"style" parquet:"style"`
	Citation    int32   `json:"citation" parquet:"citation"`
	Score       float64 `json:"score" parquet:"score"`
	Why         string  `json:"why" parquet:"why"`
	Request     Key     `json:"request" parquet:"request"`
}

// Verdict is the votes on one completion, folded by their minimum. VoteCount is how many
// votes the minimum is over. Early is true when voting stopped because the decision
// couldn't change any more.
type Verdict struct {
	CompletionID string        `json:"completion_id" parquet:"completion_id"`
	PromptID     string        `json:"prompt_id" parquet:"prompt_id"`
	Category     Category      `json:"category" parquet:"category,dict"`
	Intent       Intent        `json:"intent" parquet:"intent,dict"`
	Sample       int32         `json:"sample" parquet:"sample"`
	Judge        ModelIdentity `json:"judge" parquet:"judge,dict"`
	Score        float64       `json:"score" parquet:"score"`
	VoteCount    int32         `json:"vote_count" parquet:"vote_count"`
	Votes        []Vote        `json:"votes" parquet:"votes,list"`
	Early        bool          `json:"early" parquet:"early"`
	Reason       Reason        `json:"reason,omitempty" parquet:"reason,dict"`
}

// Example is one SFT row in TRL's conversational prompt-completion form. It
// carries no policy text.
type Example struct {
	ID           string    `json:"id" parquet:"id"`
	Prompt       []Message `json:"prompt" parquet:"prompt,list"`
	Completion   []Message `json:"completion" parquet:"completion,list"`
	PromptID     string    `json:"prompt_id" parquet:"prompt_id"`
	CompletionID string    `json:"completion_id" parquet:"completion_id"`
	Category     Category  `json:"category" parquet:"category,dict"`
	Intent       Intent    `json:"intent" parquet:"intent,dict"`
	Language     string    `json:"language" parquet:"language,dict"`
	Source       string    `json:"source" parquet:"source,dict"`
	Score        float64   `json:"score" parquet:"score"`
}

// RLPrompt is one prompt of the RL stage.
type RLPrompt struct {
	PromptID string    `json:"prompt_id" parquet:"prompt_id"`
	Prompt   []Message `json:"prompt" parquet:"prompt,list"`
	Category Category  `json:"category" parquet:"category,dict"`
	Intent   Intent    `json:"intent" parquet:"intent,dict"`
	Language string    `json:"language" parquet:"language,dict"`
	Source   string    `json:"source" parquet:"source,dict"`
}

// Rollout is one RL sample with its reward, the weighted sum of its terms. Reward is absent,
// never 0, when the judge was unavailable or, where Lost says so, its reply could not be
// read. Index counts the completions of a step, those of all processes that train together.
type Rollout struct {
	Step     int32        `json:"step" parquet:"step"`
	Index    int32        `json:"index" parquet:"index"`
	PromptID string       `json:"prompt_id" parquet:"prompt_id"`
	Category Category     `json:"category" parquet:"category,dict"`
	Intent   Intent       `json:"intent" parquet:"intent,dict"`
	CoT      string       `json:"cot" parquet:"cot"`
	Answer   string       `json:"answer" parquet:"answer"`
	Reward   *float64     `json:"reward" parquet:"reward,optional"`
	Terms    RewardScores `json:"terms" parquet:"terms"`
	Lost     bool         `json:"lost,omitempty" parquet:"lost"`
	Votes    []Vote       `json:"votes" parquet:"votes,list"`
}

// Grade is the grader's opinion of one evaluation answer. Action is what the
// answer did; what was right stands in Expected, the suite's label, which dev prompts have none of.
type Grade struct {
	CompletionID string        `json:"completion_id" parquet:"completion_id"`
	PromptID     string        `json:"prompt_id" parquet:"prompt_id"`
	Suite        string        `json:"suite" parquet:"suite,dict"`
	Arm          Arm           `json:"arm" parquet:"arm,dict"`
	Category     Category      `json:"category" parquet:"category,dict"`
	Intent       Intent        `json:"intent" parquet:"intent,dict"`
	Expected     Action        `json:"expected" parquet:"expected,dict"`
	Action       Action        `json:"action" parquet:"action,dict"`
	JudgeExpects Action        `json:"judge_expects" parquet:"judge_expects,dict"`
	Style        int32         `json:"style" parquet:"style"`
	HasCoT       bool          `json:"has_cot" parquet:"has_cot"`
	Cited        Category      `json:"cited" parquet:"cited,dict"`
	Truncated    bool          `json:"truncated" parquet:"truncated"`
	Grader       ModelIdentity `json:"grader" parquet:"grader,dict"`
	Votes        []Vote        `json:"votes" parquet:"votes,list"`
	// CoTVotes are those of the grader that was shown the chain of thought, too. Only
	// milestones' answers to the dev split have them.
	CoTVotes []Vote `json:"cot_votes,omitempty" parquet:"cot_votes,list"`
	Reason   Reason `json:"reason,omitempty" parquet:"reason,dict"`
}

// Target renders CoT and answer as the student is trained to write them.
func Target(cot, answer string) string {
	return "<think>\n" + strings.TrimSpace(cot) + "\n</think>\n\n" + strings.TrimSpace(answer)
}
