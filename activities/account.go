package activities

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"precept/internal/llm"
	"precept/schemas"
)

// account is what a task pays: it counts what the task's requests took, and sends none
// that could go past its grant or that its lease doesn't tell of.
//
// Answers in the journal are marked with the account's token. So an attempt counts what
// earlier ones have paid, however they ended: figures are those of the journal. What they
// may have sent beside that, the lease tells: its note is a balance, which is written
// before the requests that it covers are sent.
type account struct {
	token string
	renew func(context.Context) error // writes the balance; nil where nothing can be lost
	grant *schemas.Cost               // of all attempts together; nil for none
	sizes *sizes                      // of what is asked, where somebody wants to know
	// counting counts answers that this account has paid for before.
	counting bool

	mu      sync.Mutex
	open    bool // the balance is known
	closed  bool
	usage   schemas.Usage
	costs   schemas.Costs
	seen    map[schemas.Key]bool // own answers that this attempt has come across
	flying  reserve              // sent, and not yet settled
	batched reserve              // that waits to be submitted as a batch
	ahead   reserve              // that may be sent: the lease tells of it
	wanted  reserve              // that is being added to ahead
	most    schemas.Cost         // of one request
	told    schemas.Cost         // the same, as the lease tells
	broke   bool                 // a request was refused for the grant
	needs   schemas.Cost         // the grant that would have done for that request
	settled chan struct{}        // closed by the next request that is settled

	filling chan struct{} // closed when more is reserved; nil where that isn't under way
	filled  time.Time     // when ahead was last filled
	sent    int64         // since then
	lost    error         // why the lease tells of nothing any more
}

// reserve is a number of requests and what they can cost at most.
type reserve struct {
	Calls int64        `json:"calls,omitempty"`
	Cost  schemas.Cost `json:"cost,omitzero"`
}

func (r reserve) plus(o reserve) reserve { return reserve{r.Calls + o.Calls, r.Cost.Plus(o.Cost)} }

func (r reserve) minus(o reserve) reserve {
	return reserve{r.Calls - o.Calls, r.Cost.Minus(o.Cost)}
}

func (r reserve) covers(o reserve) bool {
	return r.Calls >= o.Calls && r.Cost.USD >= o.Cost.USD && r.Cost.Tokens >= o.Cost.Tokens
}

// balance is an account as its lease tells of it.
type balance struct {
	schemas.Spent
	Record string       `json:"record"`        // where Spent lies
	Open   reserve      `json:"open,omitzero"` // what may have been sent beside that
	Most   schemas.Cost `json:"most,omitzero"` // that one request can cost
	// Settled says that its holder has ended in order: nothing is to be found out.
	Settled bool `json:"settled,omitempty"`
}

func newAccount(token string) *account {
	return &account{token: token, seen: map[schemas.Key]bool{}, settled: make(chan struct{})}
}

// Token implements llm.Payer.
func (a *account) Token() string { return a.token }

// errGrant ends a task whose grant is spent.
var errGrant = schemas.Errorf("do task", "", schemas.BudgetExceeded, "its grant is spent")

// Send implements llm.Payer.
func (a *account) Send(ctx context.Context, bill llm.Bill) error {
	one := reserve{1, bill.Most}
	for {
		a.mu.Lock()
		a.most = a.most.Max(bill.Most)
		var wait <-chan struct{}
		switch {
		case !a.allows(one):
			// What is in flight will most likely take less than it can.
			if a.flying.Calls == 0 && !a.broke {
				a.broke, a.needs = true, a.with(one)
			}
			if a.broke {
				a.mu.Unlock()
				return errGrant
			}
			wait = a.settled
		case a.renew == nil:
			a.flying = a.flying.plus(one)
			a.mu.Unlock()
			return nil
		case a.lost != nil:
			a.mu.Unlock()
			return a.lost
		case a.ahead.covers(one) && bill.Most.Within(a.told):
			a.ahead, a.flying = a.ahead.minus(one), a.flying.plus(one)
			a.sent++
			if a.ahead.Calls < a.sent/2 {
				a.fill(ctx) // in time, so that nobody waits
			}
			a.mu.Unlock()
			return nil
		default:
			wait = a.fill(ctx)
		}
		a.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// allows reports whether one more request can be sent for sure within the grant.
func (a *account) allows(one reserve) bool {
	if a.grant == nil {
		return true
	}
	return !a.broke && a.with(one).Within(*a.grant)
}

// with is what the account can come to with one more request.
func (a *account) with(one reserve) schemas.Cost {
	return a.usage.AtMost().Plus(a.flying.Cost).Plus(a.batched.Cost).Plus(one.Cost)
}

// needed is the grant with which the account could have gone on, where one was refused.
func (a *account) needed() schemas.Cost {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.needs
}

// least is how many requests are reserved at a time, at least. Else it is as many as are
// sent in two seconds: that is what an account may be off by when its worker is killed.
const (
	least          = 32
	reserveSeconds = 2
)

// fill has the lease tell of more requests, unless that is under way, and returns what
// is closed when that has ended. The caller holds the mutex.
func (a *account) fill(ctx context.Context) <-chan struct{} {
	if a.filling != nil {
		return a.filling
	}
	n, most := int64(least), a.most
	if took := time.Since(a.filled).Seconds(); took > 0 {
		// Requests that begin at once say little of how many a second brings.
		n = max(n, min(int64(reserveSeconds*float64(a.sent)/took), 4*a.sent))
	}
	filling := make(chan struct{})
	a.filling, a.wanted = filling, reserve{n, most.Times(n)}
	go func() {
		defer close(filling)
		err := a.renew(context.WithoutCancel(ctx))
		if err != nil && schemas.KindOf(err) != schemas.Conflict {
			time.Sleep(renewAgain)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if err == nil {
			a.ahead, a.told, a.filled, a.sent = a.ahead.plus(a.wanted), most, time.Now(), 0
		} else if schemas.KindOf(err) == schemas.Conflict {
			a.lost = err
		}
		a.filling, a.wanted = nil, reserve{}
	}()
	return filling
}

// renewAgain is the pause after a balance could not be written.
const renewAgain = 200 * time.Millisecond

// Settle implements llm.Payer.
func (a *account) Settle(ctx context.Context, bill llm.Bill, took schemas.Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flying = a.flying.minus(reserve{1, bill.Most})
	a.usage.Add(took)
	a.costs.Add(llm.CategoryOf(ctx), took.Cost())
	if took.Paid > 0 && bill.Key != "" {
		a.seen[bill.Key] = true
	}
	close(a.settled)
	a.settled = make(chan struct{})
}

// Postpone implements llm.Payer.
func (a *account) Postpone(_ context.Context, bill llm.Bill) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	one := reserve{1, bill.Most}
	if !a.allows(one) {
		if a.needs == (schemas.Cost{}) {
			a.needs = a.with(one)
		}
		return errGrant
	}
	a.batched = a.batched.plus(one)
	return nil
}

// Received implements llm.Payer.
func (a *account) Received(ctx context.Context, took schemas.Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.usage.Add(took)
	a.costs.Add(llm.CategoryOf(ctx), took.Cost())
}

// again forgets what this attempt came across: its rows are done from the start.
func (a *account) again() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen, a.usage.Cached, a.batched = map[schemas.Key]bool{}, 0, reserve{}
}

// Found implements llm.Payer.
func (a *account) Found(ctx context.Context, bill llm.Bill, took schemas.Usage, own bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sizes != nil {
		a.sizes.found(bill, took)
	}
	if !own || a.seen[bill.Key] {
		a.usage.Cached++
		return
	}
	a.seen[bill.Key] = true
	if a.counting {
		a.usage.Add(took)
		a.costs.Add(llm.CategoryOf(ctx), took.Cost())
	}
}

// Missing implements llm.Payer.
func (a *account) Missing(_ context.Context, bill llm.Bill, r llm.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sizes != nil {
		a.sizes.lacking(bill, r)
	}
}

// spent is what the account has taken so far.
func (a *account) spent() (schemas.Usage, schemas.Costs) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.usage, maps.Clone(a.costs)
}

// took is the usage so far.
func (a *account) took() schemas.Usage {
	u, _ := a.spent()
	return u
}

// begin sets what was spent before this attempt, and the most that one request can cost.
func (a *account) begin(before schemas.Spent, most schemas.Cost) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.usage, a.costs, a.most, a.open = before.Usage, maps.Clone(before.Costs), most, true
	a.usage.Cached = 0 // this attempt comes across the same answers
}

// balance is what the lease is to tell; not ok while that isn't known.
func (a *account) balance() (b balance, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.Payer, b.Usage, b.Costs = a.token, a.usage, maps.Clone(a.costs)
	b.Open, b.Most, b.Settled = a.flying.plus(a.ahead).plus(a.wanted), a.most, a.closed
	return b, a.open
}

// close gives back what was reserved and not sent.
func (a *account) close() {
	a.mu.Lock()
	for a.filling != nil {
		filling := a.filling
		a.mu.Unlock()
		<-filling
		a.mu.Lock()
	}
	a.ahead, a.closed = reserve{}, true
	a.mu.Unlock()
}

// counted is what b comes to where of its answers those in usage were found: of the
// others nobody knows. They cost no more than b's bound leaves, nor than so many requests
// can.
func (b balance) counted(found schemas.Spent) schemas.Spent {
	calls := b.Usage.Paid + b.Usage.Unanswered + b.Open.Calls - found.Usage.Paid
	left := b.Usage.AtMost().Plus(b.Open.Cost).Minus(found.Usage.Cost())
	left = left.Min(b.Most.Times(calls)).Max(schemas.Cost{})
	found.Usage.Unanswered = max(0, calls)
	found.Usage.UnansweredUSD, found.Usage.UnansweredTokens = left.USD, left.Tokens
	return found
}

func readBalance(note json.RawMessage) (b balance, ok bool) {
	return b, json.Unmarshal(note, &b) == nil && b.Payer != ""
}
