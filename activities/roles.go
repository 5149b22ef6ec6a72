package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"precept/internal/judge"
	"precept/internal/llm"
	"precept/internal/policy"
	"precept/schemas"
)

// cast puts into a key who is asked about prompts of these intents and categories: every model that
// may answer and, unless one model answers all, which are asked in which order for which
// prompts. The key of a shard whose prompts all go to one model is the same whatever
// routes lead there.
func (p *planner) cast(l *lineage, role schemas.Role, intents []schemas.Intent, categories ...schemas.Category) error {
	routes := map[schemas.Category]map[schemas.Intent][]model{}
	byDigest := map[schemas.Digest]model{}
	parted := false
	for _, category := range categories {
		routes[category] = map[schemas.Intent][]model{}
		for _, intent := range intents {
			route, err := role.For(category, intent)
			if err != nil {
				return err
			}
			var order []model
			for _, name := range route.Endpoints() {
				e, err := p.endpoint(name)
				if err != nil {
					return err
				}
				m := asked(e)
				if slices.ContainsFunc(order, func(o model) bool { return schemas.DigestOf(o) == schemas.DigestOf(m) }) {
					continue // the same model at another address
				}
				order = append(order, m)
				byDigest[schemas.DigestOf(m)] = m
			}
			parted = parted || len(order) > 1
			routes[category][intent] = order
		}
	}
	models := make([]model, 0, len(byDigest))
	for _, m := range byDigest {
		models = append(models, m)
	}
	slices.SortFunc(models, func(x, y model) int {
		return cmp.Or(cmp.Compare(x.Identity, y.Identity), cmp.Compare(schemas.DigestOf(x), schemas.DigestOf(y)))
	})
	l.Models = append(l.Models, models...)
	if parted || len(models) > 1 {
		l.Params["routes"] = routes
	}
	return nil
}

// router asks about a prompt whom a role's routes name for it, and nobody else.
type router struct {
	w       *work
	role    schemas.Role
	clients map[string]*llm.Client
	first   []*llm.Client // of the routes, each once
}

// router opens the endpoints that the task's prompts, of these intents, may go to.
func (w *work) router(role schemas.Role, intents ...schemas.Intent) (*router, error) {
	r := &router{w: w, role: role, clients: map[string]*llm.Client{}}
	categories := w.plan.Inputs.Categories
	if w.Category != "" {
		categories = []schemas.Category{w.Category}
	}
	for _, category := range categories {
		for _, intent := range intents {
			route, err := role.For(category, intent)
			if err != nil {
				return nil, err
			}
			for _, name := range route.Endpoints() {
				if r.clients[name] == nil {
					if r.clients[name], err = w.client(name); err != nil {
						return nil, err
					}
				}
			}
			if first := r.clients[route.Endpoint]; !slices.Contains(r.first, first) {
				r.first = append(r.first, first)
			}
		}
	}
	return r, nil
}

// inFlight is how many requests a task keeps going: what its endpoints bear.
func (r *router) inFlight() (n int) {
	for _, c := range r.first {
		n += inFlight(c)
	}
	return n
}

// to is who is asked about a prompt.
func (r *router) to(p schemas.Prompt) (*choice, error) {
	route, err := r.role.For(p.Category, p.Intent)
	if err != nil {
		return nil, err
	}
	c := &choice{w: r.w}
	for _, name := range route.Endpoints() {
		if r.clients[name] == nil {
			return nil, schemas.Errorf("find route", p.ID, schemas.Internal, "its category %q with intent %q is none of the task's", p.Category, p.Intent)
		}
		c.clients = append(c.clients, r.clients[name])
	}
	return c, nil
}

// choice is who is asked about one prompt: the first client, and the next one where it
// can't answer. It serves one row, whose requests come one after the other.
type choice struct {
	w       *work
	clients []*llm.Client
	by      []schemas.ModelIdentity // who has answered, each once
	last    llm.Endpoint            // who has answered last
	// messages are those of a teacher, which depend on how its endpoint is asked for the
	// chain of thought; nil for a request's own.
	messages func(llm.Endpoint) []schemas.Message
}

// teaching makes the choice one of teachers: each is asked, and read, in its own form.
func (c *choice) teaching(cp policy.CategoryPolicy, prompt schemas.Prompt) *choice {
	c.messages = func(e llm.Endpoint) []schemas.Message { return policy.TeacherMessagesIn(e.CoT, cp, prompt) }
	return c
}

// split parts what was answered. What a trained model says goes to users as it is, and
// must be in the strict form itself; of a teacher's answer, examples are made in it.
func (c *choice) split(a llm.Answer) (cot, answer string, ok bool) {
	if c.messages != nil {
		return c.last.CoT.Read(a)
	}
	return a.Split()
}

// Ask implements judge.Asker. What any of the clients has answered before counts before
// anything is sent, so that what was made in an outage is made again from the journal.
func (c *choice) Ask(ctx context.Context, r llm.Request) (llm.Answer, llm.Meta, error) {
	if len(c.clients) > 1 {
		for _, client := range c.clients {
			answer, meta, err := client.Recorded().Ask(ctx, c.put(client, r))
			if llm.IsMissing(err) {
				continue
			}
			return c.answered(client, answer, meta, err)
		}
	}
	var failed []error
	for i, client := range c.clients {
		if i+1 < len(c.clients) {
			client = client.Hasty()
		}
		answer, meta, err := client.Ask(ctx, c.put(client, r))
		if err == nil || ctx.Err() != nil || !away(err) {
			return c.answered(client, answer, meta, err)
		}
		if i+1 < len(c.clients) {
			next := c.clients[i+1]
			c.w.notes.add(fallbackNote(client, next, err))
			c.w.beat.lookout.replaced(client.Endpoint().Name, next.Endpoint().Name)
		}
		failed = append(failed, err)
	}
	if len(failed) == 1 {
		return llm.Answer{}, llm.Meta{}, failed[0]
	}
	return llm.Answer{}, llm.Meta{}, c.unanswered(failed)
}

// routeError is that no endpoint of a route could answer.
type routeError struct {
	error  // that stands for all
	others []error
}

func (e *routeError) Unwrap() error { return e.error }

func (e *routeError) Error() string {
	s := e.error.Error()
	for _, o := range e.others {
		s += fmt.Sprintf(" (and %v)", o)
	}
	return s
}

// unanswered tells which of the errors of a route's endpoints, one each, stands for all. A
// failure may pass, so that it stands for a refused account too; unless all others are out
// for longer than a request, since the whole route is unusable then.
func (c *choice) unanswered(failed []error) error {
	stands := slices.IndexFunc(failed, llm.IsAccount)
	unusable := stands >= 0 && !slices.ContainsFunc(c.clients, func(c *llm.Client) bool { return c.Trouble() == nil })
	for i, err := range failed {
		if !llm.IsAccount(err) && !unusable {
			stands = i
		}
	}
	return &routeError{failed[stands], slices.Delete(slices.Clone(failed), stands, stands+1)}
}

// askedBy names the endpoints whose errors err is made of, that which stands for all first.
func askedBy(err error) (names []string) {
	errs := []error{err}
	if route := (*routeError)(nil); errors.As(err, &route) {
		errs = append(errs, route.others...)
	}
	for _, err := range errs {
		if name := llm.AskedBy(err); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// put is a request as a client is asked it.
func (c *choice) put(client *llm.Client, r llm.Request) llm.Request {
	if c.messages != nil {
		r.Messages = c.messages(client.Endpoint())
	}
	return r
}

func (c *choice) answered(client *llm.Client, answer llm.Answer, meta llm.Meta, err error) (llm.Answer, llm.Meta, error) {
	c.last = client.Endpoint()
	if who := c.last.Identity(); err == nil && !slices.Contains(c.by, who) {
		c.by = append(c.by, who)
	}
	return answer, meta, err
}

// who is the model that has answered or, where there were several, their names together.
func (c *choice) who() schemas.ModelIdentity { return together(c.by) }

func together(models []schemas.ModelIdentity) schemas.ModelIdentity {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = string(m)
	}
	return schemas.ModelIdentity(strings.Join(names, " + "))
}

// away reports whether err is that an endpoint answers nobody now. A refusal of the content
// is an answer, and too many requests are no outage.
func away(err error) bool {
	return llm.IsAccount(err) || llm.IsRequest(err) && schemas.KindOf(err) == schemas.Unavailable
}

func fallbackNote(from, to *llm.Client, err error) string {
	why := "was away"
	if llm.IsAccount(err) {
		why = "refused the account"
	}
	return fmt.Sprintf("endpoint %s %s: %s was asked in its place", from.Endpoint().Name, why, to.Endpoint().Name)
}

// routedJudge asks for its votes whom the item's prompt is routed to.
type routedJudge struct {
	*router
	judge *judge.Judge
}

// Verdict implements reward.Judge.
func (j routedJudge) Verdict(ctx context.Context, item judge.Item) (judge.Result, error) {
	r, _, err := j.verdict(ctx, item)
	return r, err
}

// verdict asks for the votes on item, and tells who gave them.
func (j routedJudge) verdict(ctx context.Context, item judge.Item) (judge.Result, schemas.ModelIdentity, error) {
	choice, err := j.to(item.Prompt)
	if err != nil {
		return judge.Result{}, "", err
	}
	r, err := j.judge.Asking(choice).Verdict(ctx, item)
	return r, choice.who(), err
}
