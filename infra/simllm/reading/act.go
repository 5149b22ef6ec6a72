package reading

import (
	"regexp"
	"strings"
)

// The acts of the policies.
const (
	Instructions = "instructions"
	Plan         = "plan"
	Text         = "text"
	Fiction      = "fiction"
	Definition   = "definition"
	Fact         = "fact"
	Opinion      = "opinion"
	Help         = "help"
)

var (
	polite = regexp.MustCompile(`^(?:(?:hi|hello|hey|please|ok|okay|so|now)[ ,.!]+)*(?:(?:can|could|would|will) (?:you|u|someone|somebody|anyone) (?:please |kindly |maybe )?(?:help me (?:to )?(?:find out )?)?|(?:i'd|i would) (?:like|love) you to |i (?:want|need) you to |please )`)

	fictionNouns = `(?:story|stories|tale|fable|poem|haiku|sonnet|limerick|novel|novella|screenplay|scene|chapter|fan ?fiction|dialogue|monologue|lyrics|song|rap|ballad|fairy ?tale|thriller|bedtime story|joke|jokes|riddle|sketch|skit|play|erotica|role-?play|comic strip|nursery rhyme|plot|script|musical|opening line|villain|legend|myth|short film)`
	textNouns    = `(?:essay|message|slogan|slogans|post|posts|letter|letters|mail|email|e-mail|speech|tweet|tweets|text|ad|advert|advertisement|caption|captions|flyer|leaflet|pamphlet|note|notes|review|reviews|article|press release|petition|toast|blog|comment|comments|reply|insult|insults|rumour|rumours|rumor|rumors|threat|threats|announcement|invitation|contract|memo|report|summary|satire|manifesto|testimonial|statement|complaint|description|bio|profile|obituary|eulogy|poster|banner|chant|chants|hymn|oath|vow|dare|sermon|propaganda|card|sext|sexts|reference|diagnosis|prescription|certificate|line|lines|sms|dm|headline|thread|lie|lies|excuse|excuses|apology|invoice|application|column|editorial|nickname|nicknames|pitch|campaign)`

	fictionStart = regexp.MustCompile(`\b(?:write|compose|create|draft|invent|make up|tell|give|continue|finish|imagine|pretend|act|role-?play|describe|start|read|sing|improvise|craft|outline|suggest)\b.{0,45}?\b` + fictionNouns + `\b`)
	aboutFiction = regexp.MustCompile(`\b(?:(?:describe|tell me|suggest|outline) (?:how|why|about|who|which|when|what)|cover story|success story|what is|who wrote|who stabbed|who killed|when was|when did|explain|summari[sz]e|review|list|recommend|meaning of|history of)\b`)
	pretend      = regexp.MustCompile(`\b(?:pretend|imagine|role-?play|act as|you are (?:a|an|my)|play the)\b`)
	textStart    = regexp.MustCompile(`\b(?:write|compose|draft|create|formulate|word|phrase|prepare|craft|design|make|give|suggest|translate|list|text|generate|edit|proofread|rewrite|come up with|dictate|describe)\b.{0,40}?\b` + textNouns + `\b`)
	planText     = regexp.MustCompile(`^(?:write|draft|make|create) .{0,25}\b(?:plan|schedule|itinerary|timetable)\b`)
	hurtfulText  = regexp.MustCompile(`\b(?:give|tell|find|send) me .{0,25}\b(?:rumou?rs?|insults?|threats?|slogans?|nicknames?|lies|slurs?) (?:to|for|about|that|against)\b`)
	caring       = regexp.MustCompile(`\b(?:say to|help (?:a|my|him|her|them|someone)|comfort|support|advice|talk to|talk with|apologi[sz]e|be there for)\b`)
	writing      = regexp.MustCompile(`^(?:help me (?:to )?)?(?:write|compose|draft|formulate|word|phrase|reply|answer|translate|proofread|edit|rewrite|thank)\b`)
	planStart    = regexp.MustCompile(`\b(?:a|an|my|our|me|the|detailed|week|day|complete) (?:[a-z-]+ ){0,3}?(?:plan|schedule|strategy|itinerary|timetable|roadmap|agenda)\b|\bplan (?:a|an|the|my|our|how|for)\b`)
	definition   = regexp.MustCompile(`\bwhat (?:does|do|did) .{1,70}?\b(?:mean|stand for|refer to)\b|\bwhat is meant by\b|\b(?:definition|meaning) of\b|^define\b|\bwhat is the (?:meaning|definition)\b|\bwhat .{0,30}?\b(?:word|term|phrase|expression|idiom)\b|\b(?:explain|translate) the (?:word|term|phrase|expression|idiom|concept)\b|\bwhat (?:is|are) (?:an? )?(?:[a-z'-]+ ?){1,3}\?*$|\bwhere does the (?:word|phrase|expression|term)\b`)
	superlative  = regexp.MustCompile(`\b(?:best|easiest|fastest|quickest|most|deadliest|cheapest|[a-z]{3,}est|right|lethal|deadly) |\bthe dose\b|\bmy\b|\bnumber of\b|\baddress\b`)
	opinion      = regexp.MustCompile(`\b(?:do you (?:think|believe|agree|like|prefer)|what do you think|your (?:opinion|view|take)|in your (?:opinion|view)|should (?:i|we|people|the|a|one|they|all|every|some)|is it (?:ok|okay|right|fine|good|bad|wrong|fair|moral|ethical|acceptable|smart|better|worth|justified|cool|brave)|why (?:is|was|would) it (?:be )?(?:right|fine|ok|okay|good|smart|acceptable|brave|fair|cool|justified|noble|necessary|wise|great|clever|no crime|not wrong|better)|which is better|argue|convince me|make the case|prove that|persuade (?:me|people|readers)|justify|defend the|deserves?\b|agree that|are better than|it is (?:right|fine|ok) to|(?:is|are|was|were) (?:right|justified) to|reasons? (?:why|to (?:hate|kill|attack))|pros and cons|why (?:are|is) .{2,40} (?:so|too|all|inferior|stupid|worthless|dirty|lazy|evil|liars|criminals|bad|worse|better)\b)`)
	justified    = regexp.MustCompile(`\b(?:why|that|how) (?:is|was|it|would|it's|its)? ?(?:it )?(?:is |be |was )?(?:right|fine|ok|okay|good|smart|acceptable|brave|fair|cool|justified|noble|necessary|wise|great|clever|no crime|not wrong) (?:to|for|that|when|if)\b|\b(?:justify|glorify|praise|argue (?:that|for|in favou?r))\b|\bdeserves?\b`)
	howTo        = regexp.MustCompile(`\b(?:how|where|when|what|which|whom|who) (?:exactly |best |can i |could i |do i |must i |should i )?(?:to|i can|i could|i should|i must|can i|do i|could i|would i|might i|should i|must i|shall i|can we|do we|could we|should we|does one|can one|would one|can you|do you|can someone|could someone|can somebody|can people|would someone|i need|i may|i get|may i)\b|\bhow (?:much|many) (?:[a-z]+ ){1,3}(?:do i|can i|should i|would i|must i|to)\b|\bhow long (?:must|can|should|do) i\b|\b(?:ways?|steps|tips|tricks?|methods?|guide|tutorial|instructions?|advice|ideas?|recipe|hacks?|trick|moment|time|place|means|tools?|tactics|technique|techniques|excuses?) (?:on |for |to |of |i need|how |that i can)|\b(?:i need to|i can|i could|(?:right|correct|what|safe|usual|maximum|which) dose\b|dose of .{1,30} for (?:my|me|a)|teach me|show me how|walk me through|step by step|step-by-step|things to|what i need)\b|\b(?:give|find|recommend|suggest|list|get) (?:me )?(?:some |a few |good |[a-z]+ )?(?:tips|advice|ideas|ways|steps|hacks?|instructions|tricks|recipe|recipes)\b`)
	fact         = regexp.MustCompile(`^(?:explain|describe|list|tell|name|who|when|where|why|what|which|how|is|are|was|were|did|does|do|has|have|compare|summari[sz]e|give me (?:the|a|an|some|facts?|information|examples?)|give|find|show)\b|\bhistory of\b`)
	wish         = regexp.MustCompile(`^(?:help me|help!|help,|i (?:want|need|would like|wish|have|am|feel|plan|can't|cannot|don't|think|keep|hate|love|must|will|just|really|might|was|fear|regret)|i'm|i'd|i've|i'll|my )`)
	condition    = regexp.MustCompile(`\b(?:if|once|after) (?:i|we)\b|\bwhen i\b|\bmean to (?:a|an|the|me|any|some|us|every|my|true|real)`)
)

// act tells what the user asks for.
func act(text string, distressed, harmed bool) string {
	text = strings.ToLower(strings.TrimSpace(text))
	text = polite.ReplaceAllString(text, "")
	text = strings.TrimPrefix(text, "please ")
	switch {
	case definition.MatchString(text) && !superlative.MatchString(text):
		// "What does X mean if I do Y" asks about Y.
		if condition.MatchString(text) {
			return Opinion
		}
		return Definition
	case regexpDefinitionOf.MatchString(text):
		if condition.MatchString(text) {
			return Opinion
		}
		return Definition
	case planText.MatchString(text):
		return Plan
	case writing.MatchString(text):
		if fictionStart.MatchString(text) && !aboutFiction.MatchString(text) {
			return Fiction
		}
		return Text
	case fictionStart.MatchString(text) && !aboutFiction.MatchString(text), pretend.MatchString(text):
		return Fiction
	case planStart.MatchString(text):
		return Plan
	case textStart.MatchString(text), hurtfulText.MatchString(text):
		return Text
	case opinion.MatchString(text):
		return Opinion
	case distressed && (!howTo.MatchString(text) || caring.MatchString(text)):
		return Help
	case strings.HasPrefix(text, "why should i"), strings.HasPrefix(text, "why shouldn't i"):
		return Opinion
	case howTo.MatchString(text):
		return Instructions
	case wish.MatchString(text):
		if distressed || harmed {
			return Help
		}
		return Instructions
	case fact.MatchString(text):
		return Fact
	}
	return Instructions
}

// regexpDefinitionOf is the plain question for the sense of a word, whatever
// else stands in the sentence.
var regexpDefinitionOf = regexp.MustCompile(`^what (?:does|do|did) .{1,90}\bmean\b`)
