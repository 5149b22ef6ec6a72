package reading

import "strings"

// nounPhrase is what stands after a verb or preposition: "my neighbour's dog"
// has the head animal and the owner person.
type nounPhrase struct {
	head, owner class
	// own is true for what the user calls their own.
	own bool
	end int
	// named is true for an unknown capitalized word.
	named bool
}

// nounPhrase reads the noun phrase that begins at token i.
func (p *parse) nounPhrase(i int) nounPhrase {
	np := nounPhrase{end: i}
	for j := i; j < len(p.tokens); {
		t := p.tokens[j]
		if j > i && (boundary[t.word] || t.word == "and") || boundary[t.word] {
			break
		}
		switch t.word {
		case "my", "our", "own":
			np.own = true
		case "his", "her", "their", "your":
			if np.own = false; j+1 < len(p.tokens) && !boundary[p.tokens[j+1].word] && t.word != "your" {
				np.owner |= named("person")
				np.end, j = j+1, j+1
				continue
			}
		case "'s":
			np.owner |= np.head
			if np.named {
				np.owner |= named("person")
			}
			np.head, np.named, np.own = 0, false, false
		}
		width := 1
		for _, s := range p.spans {
			if s.at != j || s.class&anyKind == 0 || p.maskedAll(s) && s.class.has(living) {
				continue
			}
			if s.class.has(actWord) && s.end-s.at == 1 && !s.class.has(goods|named("money")) {
				continue
			}
			contiguous := s.end-s.at <= 4
			if contiguous && s.end-s.at >= width {
				width = s.end - s.at
				np.head = s.class & anyKind
				np.named = false
			}
		}
		if width == 1 && t.name && np.head == 0 && !stop[t.word] {
			np.named = true
		}
		j += width
		np.end = j
	}
	return np
}

// someone tells whether np is, or belongs to, a person other than the user.
func (np nounPhrase) someone() bool { return np.head.has(living) || np.named || np.owner.has(living) }

// leads are the words that may stand between a harm word and its object.
var leads = set("of on against at about for to from into onto up down off out with over in upon towards through around past")

// objects are the noun phrases that a word ending before token i is about: its
// object and what follows by prepositions, up to the end of the clause.
func (p *parse) objects(i int) []nounPhrase {
	var out []nounPhrase
	for j := i; j < len(p.tokens) && len(out) < 4; {
		t := p.tokens[j].word
		if t == "." || t == "?" || t == ";" || t == "!" || t == "so" || t == "because" || t == "if" || t == "that" && len(out) > 0 || t == "who" {
			break
		}
		if leads[t] || boundary[t] || t == "and" {
			j++
			continue
		}
		np := p.nounPhrase(j)
		if np.end == j {
			j++
			continue
		}
		out = append(out, np)
		j = np.end
	}
	return out
}

// object is the first of them. Where nothing follows, the phrase before "to"
// is meant ("the best crowd to attack").
func (p *parse) object(s span) nounPhrase {
	i := s.end
	if i < len(p.tokens) && p.tokens[i].word == "and" {
		// "bind and gag a man": one object for both.
		for _, np := range p.objects(i + 1) {
			if np.head.has(living) {
				return np
			}
		}
	}
	if np := p.before(s); np.head != 0 && (i >= len(p.tokens) || boundary[p.tokens[i].word]) {
		return np
	}
	for i < len(p.tokens) && leads[p.tokens[i].word] {
		i++
	}
	if i < len(p.tokens) {
		if np := p.nounPhrase(i); np.end > i && (np.head != 0 || np.owner != 0 || np.named) {
			return np
		}
	}
	return p.before(s)
}

// before is the noun phrase that a harm word at the end of its clause refers
// back to.
func (p *parse) before(s span) nounPhrase {
	if s.at == 0 || p.tokens[s.at-1].word != "to" && p.tokens[s.at-1].word != "be" && !strings.HasSuffix(p.tokens[s.at].word, "ed") && !strings.HasSuffix(p.tokens[s.at].word, "en") {
		return nounPhrase{}
	}
	var last nounPhrase
	for _, o := range p.spans {
		if o.class.has(anyKind) && o.at >= s.at-7 && o.end <= s.at {
			last = nounPhrase{head: o.class & anyKind, end: o.end}
		}
	}
	return last
}

// passive tells whether the word at s is a participle or past tense, which
// tells of a harm rather than asking for one.
func (p *parse) passive(s span) bool {
	if s.end-s.at > 2 {
		return false
	}
	w := p.tokens[s.at].word
	past := strings.HasSuffix(w, "ed") || w == "shot" || w == "stolen" || w == "stole" || w == "beaten" || w == "hidden" || w == "broken" || w == "burnt"
	if !past {
		return false
	}
	// "He must be killed" and "get him killed" ask for it all the same.
	if s.at >= 2 && p.tokens[s.at-1].word == "be" {
		switch p.tokens[s.at-2].word {
		case "must", "should", "to", "will", "she'll", "he'll", "they'll", "you'll", "shall":
			return false
		}
	}
	for j := max(0, s.at-4); j < s.at-1; j++ {
		switch p.tokens[j].word {
		case "have", "get", "getting", "having", "want":
			for _, o := range p.live(living) {
				if o.at > j && o.end <= s.at {
					return false
				}
			}
		}
	}
	return true
}

// intended tells whether the verb at s is what somebody would do with the
// answer ("what it takes to drown …"), not what somebody did.
func (p *parse) intended(s span) bool {
	w := p.tokens[s.at].word
	if s.at == 0 || strings.HasSuffix(w, "s") || strings.HasSuffix(w, "ed") || past.MatchString(strings.ToLower(p.text)) {
		return false
	}
	switch p.tokens[0].word {
	case "why", "who", "when", "did", "does", "do":
		return false
	}
	switch p.tokens[s.at-1].word {
	case "to", "i", "would", "could":
		return true
	}
	return false
}

// cared tells whether a word of care stands before the harm at s: to prevent,
// detect, report or treat it.
func (p *parse) cared(s span) bool {
	for _, c := range p.live(care) {
		if c.at < s.at || c.at >= s.end && c.end-c.at > 1 {
			return true
		}
	}
	return false
}

// toUser tells whether the user is the one harmed: "threatens me".
func (p *parse) toUser(s span) bool {
	return s.end < len(p.tokens) && (p.tokens[s.end].word == "me" || p.tokens[s.end].word == "us")
}

// harm finds the harm that answering a request for the act would help, urge or
// praise; nil for none.
func (p *parse) harm(act, request string) *finding {
	hidden := p.has(covert)
	picked := p.has(picking)
	praised := p.has(justify) || justified.MatchString(strings.ToLower(request))
	switch {
	case act == Definition:
		return nil
	case act == Fiction:
		return p.harmInFiction()
	}
	// A fact is harmful only where it serves the harm.
	serves := act != Fact || picked || hidden || praised
	suppressed := false
	check := func(s span) bool {
		if p.cared(s) && !hidden {
			suppressed, p.soft = true, true
			return false
		}
		return !p.passive(s) && !p.toUser(s)
	}
	// asked tells whether the answer would serve the harm at s.
	asked := func(s span) bool { return serves || act == Opinion || p.intended(s) }

	if f := p.harmToSelf(act); f != nil {
		return f
	}
	if f := p.harmBySex(act, hidden); f != nil {
		return f
	}
	for _, s := range p.live(atrocity) {
		if check(s) && serves {
			return p.about(s, nounPhrase{})
		}
	}
	if f := p.harmToPrivacy(act); f != nil {
		return f
	}
	gaming := p.has(named("game")) && !p.hasWord("real") || p.has(named("sport")) && !p.has(living|named("weapon"))
	for _, s := range p.live(violence | destroy) {
		if gaming || !asked(s) || !check(s) {
			continue
		}
		np := p.object(s)
		camera := p.hasWord("camera", "lens", "portrait", "portraits", "photo", "photos", "film", "light", "flash", "tripod")
		switch {
		case camera && p.tokens[s.at].is("shoot"):
		case np.head.has(named("self")) && p.tokens[np.end-1].word == "me":
		case s.class.has(violence) && (np.head.has(living) || np.head.has(creature) && !np.head.has(named("game-animal", "pest")) || np.named):
			return p.about(s, np)
		case s.class.has(violence) && (np.owner.has(living) && bodyPart[p.tokens[max(0, np.end-1)].word] || p.someoneIn(s)):
			np.head |= np.owner
			return p.about(s, np)
		case s.class.has(destroy) && np.owner.has(living) && (np.head == 0 || np.head.has(ownedThings)):
			np.head = np.owner
			return p.about(s, np)
		case s.class.has(destroy) && !np.own && np.head.has(destroyables):
			return p.about(s, np)
		case s.class.has(violence) && (hidden || picked) && p.someoneAfter(s):
			return p.about(s, np)
		}
	}
	for _, s := range p.live(demean) {
		if gaming || !asked(s) || !check(s) {
			continue
		}
		np := p.object(s)
		if !np.someone() {
			for _, later := range p.objects(s.end) {
				if later.someone() && !later.own || later.head.has(living) {
					np = later
					break
				}
			}
		}
		if !np.someone() && p.inside(s, named("group")) {
			// "Drive the immigrants out of town": the object stands inside.
			np.head = named("group")
		}
		if !np.someone() && s.at > 0 && strings.HasSuffix(p.tokens[s.at].word, "ing") {
			for _, earlier := range p.objects(0) {
				if earlier.head.has(living) && earlier.end <= s.at {
					np = earlier
				}
			}
		}
		if np.head.has(living) || np.named {
			return p.about(s, np)
		}
		if np.owner.has(living) {
			np.head = np.owner
			return p.about(s, np)
		}
	}
	for _, s := range p.live(theft) {
		if gaming || !asked(s) || !check(s) {
			continue
		}
		soft := s.class.has(softTheft)
		for n, np := range p.objects(s.end) {
			target := np.head.has(theftObjects) && (!np.own || np.head.has(living|named("money", "document"))) || np.owner.has(living)
			if n > 0 && !np.someone() && !np.head.has(institutions|named("account", "document", "money")) {
				target = false
			}
			if !soft && np.head.has(named("software")) && p.tokens[s.at].is("hack") && n == 0 && s.end-s.at > 1 {
				target = true
			}
			switch {
			case !target:
			case !soft, hidden, np.head.has(institutions) && n > 0,
				np.head.has(named("drug")) && (p.tokens[s.at].is("sell") || p.tokens[s.at].is("deal")),
				np.owner.has(living) && !p.tokens[s.at].is("buy") && !p.tokens[s.at].is("pick") && !p.tokens[s.at].is("sell"),
				np.head.has(named("account")) && !np.own && p.tokens[s.at].is("crack", "bypass", "guess"):
				return p.about(s, np)
			}
		}
		if np := p.before(s); np.head.has(theftObjects) && !np.own && (!soft || picked) {
			return p.about(s, np)
		}
	}
	for _, s := range p.live(theft) {
		if hidden && !gaming && serves && act != Definition && check(s) && !s.class.has(named("person")) && (!s.class.has(softTheft) || p.tokens[s.at].is("claim")) {
			return p.about(s, nounPhrase{})
		}
	}
	for _, s := range p.live(crime) {
		if serves && !gaming && check(s) && (act == Plan || act == Instructions || act == Help || act == Fact) && (p.has(committing) || picked || hidden) && !p.hasWord("me", "us") {
			return p.about(s, nounPhrase{head: s.class & anyKind})
		}
	}
	for _, s := range p.live(contraband) {
		if gaming || p.cared(s) && !hidden {
			continue
		}
		if act == Text || act == Plan || act == Help || serves && act != Opinion && (p.makes(s) || picked || hidden) || act == Opinion && praised {
			return p.about(s, nounPhrase{head: s.class & anyKind})
		}
	}
	for _, s := range p.live(extremist) {
		if !check(s) {
			continue
		}
		if act == Fact && !picked && !praised {
			continue
		}
		if len(p.live(urge)) > 0 || praised || p.hasWord("our", "for") && act == Plan {
			if act == Text && p.hasWord("essay", "report", "article", "summary", "lesson") && !praised {
				continue
			}
			return &finding{kinds: compact("belief", p.firstKind(living))}
		}
	}
	if praised && (act == Opinion || act == Text || act == Fact) {
		for _, s := range p.live(living &^ named("self")) {
			if p.has(named("group", "minor")) && p.demeans() || p.has(harmWords) {
				return p.about(s, nounPhrase{head: s.class & living})
			}
		}
	}
	if act == Text && p.hasWord("prescription") && p.has(named("drug")) && !p.has(care) {
		return &finding{kinds: []string{"document"}}
	}
	if hidden && !suppressed && act != Fact {
		for _, s := range p.live(theftObjects) {
			if p.has(theft | violence | demean | watching | making) {
				return p.about(s, nounPhrase{head: s.class & anyKind})
			}
		}
	}
	return nil
}

// bodyPart holds what belongs to a body: harm to it is harm to its owner.
var bodyPart = set("skull head face throat neck leg legs arm arms hand hands finger fingers eye eyes teeth nose rib ribs spine knee knees back stomach heart")

// someoneIn tells whether a living being stands inside a phrasal verb ("break
// the guard's leg").
func (p *parse) someoneIn(s span) bool { return p.inside(s, living) }

// inside tells whether a word of a class stands inside a phrasal verb.
func (p *parse) inside(s span, any class) bool {
	for _, l := range p.live(any) {
		if l.at > s.at && l.end < s.end {
			return true
		}
	}
	return false
}

// demeans tells whether a group is called less than others.
func (p *parse) demeans() bool { return p.has(justify) }

func (p *parse) someoneAfter(s span) bool {
	for _, np := range p.objects(s.end) {
		if np.head.has(living) {
			return true
		}
	}
	return false
}

// makes tells whether the words before s make, get, use or pass it on.
func (p *parse) makes(s span) bool {
	if p.tokens[s.at].is("cook", "lie", "use", "sell", "buy") {
		return true
	}
	for _, m := range p.live(making | urge) {
		if m.at < s.at {
			return true
		}
	}
	return false
}

// harmInFiction is narrow: stories may tell of harm, but not sexually of
// minors, and not against people of the user's own life.
func (p *parse) harmInFiction() *finding {
	if p.has(sexual) && !p.has(sexualCare) {
		if s := p.live(named("minor")); len(s) > 0 {
			return &finding{kinds: []string{"minor"}}
		}
		if s, ok := p.real(); ok {
			return &finding{kinds: compact(kindOf(s.class & living))}
		}
	}
	if p.has(demean|violence) && !p.has(care) {
		if s, ok := p.real(); ok {
			return &finding{kinds: compact(kindOf(s.class & living))}
		}
	}
	if p.has(justify) && !p.has(care) {
		for _, s := range p.live(named("public-figure", "group")) {
			return &finding{kinds: []string{kindOf(s.class & living)}}
		}
	}
	for _, s := range p.live(atrocity | crisis) {
		if p.hasWord("beautiful", "brave", "romantic", "noble", "glorious", "inviting", "tempting") || p.hasWord("praises", "praise", "glorifies", "celebrates") {
			f := p.about(s, nounPhrase{})
			f.praise = true
			return f
		}
	}
	praising := p.hasWord("praises", "praise", "praising", "glorifies", "glorify", "glorifying", "celebrates", "celebrate", "celebrating", "urges", "urging", "honours", "honors", "beautiful", "tempting")
	if praising {
		for _, s := range p.live(extremist | atrocity) {
			return &finding{kinds: compact(kindOf(s.class&anyKind), "belief"), praise: true}
		}
		if p.hasWord("jump", "starving", "starvation", "overdose", "suicide", "cutting", "self-harm", "thin", "dying") {
			return &finding{kinds: []string{"self"}, praise: true}
		}
	}
	return nil
}

// real finds a person of the user's life or of public life.
func (p *parse) real() (span, bool) {
	for _, s := range p.live(living) {
		for j := max(0, s.at-3); j < s.at; j++ {
			switch p.tokens[j].word {
			case "my", "our", "real", "famous", "actual":
				return s, true
			}
		}
		if s.class.has(named("public-figure")) && p.hasWord("real", "famous", "actual") {
			return s, true
		}
	}
	return span{}, false
}

// harmToSelf finds harm to the user's own body or life, and urging others to
// theirs.
func (p *parse) harmToSelf(act string) *finding {
	self := &finding{kinds: []string{"self"}}
	for _, s := range p.live(crisis) {
		if !p.passive(s) && !(p.cared(s) && act != Opinion) || act == Help || act == Opinion {
			return self
		}
	}
	for _, s := range p.live(violence) {
		np := p.object(s)
		if np.head.has(named("self")) && np.end > 0 && p.tokens[np.end-1].word != "me" && !p.cared(s) && !p.passive(s) && !p.hasWord("laughing", "accidentally") {
			return self
		}
	}
	bodily := false
	for i, t := range p.tokens {
		if !t.is("cut", "hurt", "kill", "harm", "starve", "burn", "hang", "shoot", "stab", "drown", "slit", "scratch") || p.masked[i] || i+1 >= len(p.tokens) {
			continue
		}
		switch next := p.tokens[i+1].word; {
		case next == "herself" || next == "himself" || next == "themselves" || next == "themself" || next == "yourself":
			bodily = true
		case next == "my" && i+2 < len(p.tokens) && p.tokens[i+2].is("wrist", "arm", "thigh", "skin", "vein", "leg", "body"):
			bodily = !p.hasWord("weight", "sun", "accidentally", "tan")
		}
	}
	if bodily && !p.has(care) && act != Fact && !caring.MatchString(strings.ToLower(p.text)) {
		return p.selfOrOther()
	}
	methods := 0
	for _, t := range p.tokens {
		if t.is("hang", "drown", "jump", "overdose", "bleed", "suffocate") || t.word == "pills" || t.word == "shooting" {
			methods++
		}
	}
	if methods >= 2 && p.hasWord("than", "or", "versus", "vs") && p.hasWord("quicker", "faster", "easier", "painful", "painless", "better", "hurt", "hurts", "surer", "safer") ||
		p.hasWord("blade", "razor", "razors", "lighter") && p.hasWord("wrist", "wrists", "arm", "arms", "thigh", "thighs", "skin") && p.hasWord("my") && !p.hasWord("shave", "shaving", "hair") {
		return self
	}
	if p.hasWord("fatal", "lethal", "deadly", "kills") && p.hasWord("swallowed", "swallow", "ingested", "ingest", "drunk", "drink", "inhaled", "enough", "amount", "many", "much", "dose") && !p.has(care) && !p.hasWord("dog", "cat", "pets") {
		return self
	}
	deadly := p.hasWord("die", "dies", "dead", "deadly", "lethal", "fatal", "death", "kill", "kills", "bones", "tonight", "fatally", "suicide", "live", "forever")
	mine := p.hasWord("i", "myself", "me", "my", "herself", "himself", "themselves", "themself", "yourself")
	for _, t := range p.tokens {
		switch {
		case p.maskedWord(t.word):
		case t.is("jump") && (deadly && mine || p.hasWord("bridge", "bridges", "roof", "balcony", "cliff", "building") && mine || p.hasWord("train", "trains") && p.hasWord("front")),
			t.is("overdose") && (act == Instructions || act == Plan) && !p.has(care), t.is("overdose") && mine && act != Fact && !p.has(care), t.is("overdose") && deadly && act != Definition && !p.has(care),
			t.is("starve") && mine && !p.hasWord("fire", "sourdough", "yeast", "weeds", "plant", "plants"),
			t.is("jump") && p.hasWord("death", "die", "deadly", "fatal"),
			t.is("starve") && deadly && act != Fact, t.is("pill") && deadly && !p.has(care), t.is("dose") && deadly && !p.has(care),
			t.word == "suicide" && (act == Instructions || act == Plan || act == Text && p.hasWord("note", "letter", "best", "brave", "beautiful")) && !p.has(care) && !p.hasWord("essay", "report", "prevention", "friend"),
			t.is("self-harm") && (act == Instructions || act == Plan) && !p.has(care) && p.has(covert|picking):
			return p.selfOrOther()
		}
	}
	for _, s := range p.live(named("minor", "person")) {
		if p.hasWord("end") && p.hasWord("life") && p.hasWord("his", "her", "their") && s.class != 0 && !p.has(care) && (act == Text || act == Instructions || act == Plan || act == Opinion) {
			return &finding{kinds: compact(kindOf(s.class & living))}
		}
	}
	return nil
}

// selfOrOther tells whose body is meant.
func (p *parse) selfOrOther() *finding {
	if !p.hasWord("i", "myself", "me", "my") || p.hasWord("herself", "himself", "themselves") {
		if k := p.firstKind(living); k != "" {
			return &finding{kinds: []string{k}}
		}
	}
	return &finding{kinds: []string{"self"}}
}

func (p *parse) maskedWord(w string) bool {
	for i, t := range p.tokens {
		if t.word == w {
			return p.masked[i]
		}
	}
	return false
}

// harmBySex finds sexual content about minors, and about people who did not
// agree to it.
func (p *parse) harmBySex(act string, hidden bool) *finding {
	found := p.live(sexual)
	if len(found) == 0 || p.has(sexualCare) && !hidden {
		return nil
	}
	if p.hasWord("seduce", "seductive", "seduces", "seducing", "sexy") && p.hasWord("smell", "scent", "aroma", "flavour", "flavor", "readers", "reader", "customers", "bees", "audience", "voters", "melody", "menu", "colours", "buyers") && len(found) == 1 {
		return nil
	}
	if len(p.live(named("minor"))) > 0 && !p.has(care) && !p.adultGirl() {
		return &finding{kinds: []string{"minor"}}
	}
	s := found[0]
	if p.cared(s) && !hidden || p.has(distress) {
		p.soft = true
		return nil
	}
	if act == Fact && !hidden && !p.has(realPerson) && !p.hasWord("famous", "real") {
		return nil
	}
	for _, other := range p.live(living &^ named("group")) {
		w := p.tokens[other.at].word
		if w == "who" || w == "people" || w == "he" || w == "she" || w == "him" && act == Opinion {
			continue
		}
		if (act == Instructions || act == Fact) && !hidden && p.hasWord("husband", "wife", "partner", "boyfriend", "girlfriend") && p.hasWord("talk", "tell", "ask", "consensual", "with") && !p.has(explicit) {
			continue
		}
		return &finding{kinds: compact(kindOf(other.class & living))}
	}
	if hidden {
		return &finding{kinds: []string{"person"}}
	}
	return nil
}

// adultGirl tells whether the only word for a minor is one that is also used
// of grown women and men ("a girl at a party").
func (p *parse) adultGirl() bool {
	for _, s := range p.live(named("minor")) {
		w := p.tokens[s.at]
		if !w.is("girl") && !w.is("boy") && !w.is("baby") {
			return false
		}
	}
	return p.hasWord("drunk", "date", "work", "office", "party", "bar", "club", "gym", "colleague", "no")
}

// harmToPrivacy finds private facts about somebody else.
func (p *parse) harmToPrivacy(act string) *finding {
	if act == Definition || act == Fiction || p.has(distress) {
		return nil
	}
	if p.hasWord("camera", "cameras", "cam", "microphone", "recorder") && p.hasWord("hide", "hidden", "plant", "install", "secret", "place", "put") &&
		p.hasWord("changing", "bathroom", "bedroom", "locker", "shower", "toilet", "dressing", "fitting", "restroom", "sauna") && act != Fact && !p.has(care) {
		return &finding{kinds: []string{"person", "private-data"}}
	}
	others := p.live(living &^ named("self", "group"))
	if len(others) == 0 {
		return nil
	}
	kind := kindOf(others[0].class & living)
	for _, s := range p.live(spy) {
		if !p.cared(s) && !p.passive(s) && !p.toUser(s) && act != Fact {
			return &finding{kinds: compact(kind, "private-data")}
		}
	}
	for _, s := range p.live(named("private-data")) {
		if p.cared(s) {
			continue
		}
		np := p.objects(s.end)
		for _, o := range append(np, p.owners(s)...) {
			if o.someone() && (!o.own || o.head.has(living)) {
				return &finding{kinds: compact("private-data", kind)}
			}
		}
	}
	if p.hasWord("where") && p.hasWord("live", "lives", "living", "stays", "sleeps", "parks", "staying", "hides") && p.hasWord("my", "her", "his", "now", "their", "that", "this") && !p.has(creature|care) {
		return &finding{kinds: compact("private-data", kind)}
	}
	return nil
}

// owners are the noun phrases just before s: "my sister's phone number".
func (p *parse) owners(s span) []nounPhrase {
	var out []nounPhrase
	for j := max(0, s.at-5); j < s.at; {
		np := p.nounPhrase(j)
		if np.end == j {
			j++
			continue
		}
		if np.owner.has(living) {
			out = append(out, np)
		}
		j = np.end
	}
	return out
}

func (p *parse) firstKind(any class) string {
	for _, s := range p.live(any) {
		if k := kindOf(s.class & any); k != "" && p.tokens[s.at].word != "who" {
			return k
		}
	}
	return ""
}

// about names what a harm is about: its object first, then the people in the
// sentence.
func (p *parse) about(s span, np nounPhrase) *finding {
	head := ""
	switch {
	case np.head.has(living | creature):
		head = kindOf(np.head & (living | creature))
	case np.named:
		head = "person"
	case np.head != 0:
		head = kindOf(np.head)
	case s.class&anyKind != 0:
		head = kindOf(s.class & anyKind)
	}
	owner := ""
	if np.owner.has(living) {
		owner = kindOf(np.owner & living)
	}
	return &finding{kinds: compact(owner, head, p.firstKind(living&^named("self")))}
}

// compact drops empty and repeated kinds.
func compact(kinds ...string) []string {
	var out []string
	for _, k := range kinds {
		dup := k == ""
		for _, o := range out {
			dup = dup || o == k
		}
		if !dup {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return []string{Any}
	}
	return out
}
