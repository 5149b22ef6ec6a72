package main

import (
	"encoding/binary"
	"math/rand/v2"
)

// faults are the shares (0 to 1) of requests that meet each fault of the
// endpoint. They exclude each other; their sum should stay under 1.
type faults struct {
	limit, fail, stall, cut, refusal, garbage float64
}

type fault int

const (
	noFault fault = iota
	limitFault
	failFault
	stallFault
	cutFault
	refusalFault
	garbageFault
)

// draw picks the fault of the nth asking of a body. What a client retries
// (429, 500, stalls, cuts, a judge's garbage) depends on n, so that a retry can
// succeed. What a client takes for the final answer (the provider's refusal, a
// teacher's garbage) depends on the body alone, so that asking again after a
// crash gives the same row.
func (f faults) draw(body digest, nth int, judge bool) fault {
	transport := []share{{f.limit, limitFault}, {f.fail, failFault}, {f.stall, stallFault}, {f.cut, cutFault}}
	content := []share{{f.refusal, refusalFault}}
	if judge {
		transport = append(transport, share{f.garbage, garbageFault})
	} else {
		content = append(content, share{f.garbage, garbageFault})
	}
	if got := pick(rng(body, 1+uint64(nth)<<8), transport); got != noFault {
		return got
	}
	return pick(rng(body, 2), content)
}

type share struct {
	part float64
	is   fault
}

func pick(r *rand.Rand, shares []share) fault {
	x := r.Float64()
	for _, s := range shares {
		if x < s.part {
			return s.is
		}
		x -= s.part
	}
	return noFault
}

// rng is a random source that follows from a body and a salt alone.
func rng(body digest, salt uint64) *rand.Rand {
	hi := binary.BigEndian.Uint64(body[:8])
	lo := binary.BigEndian.Uint64(body[8:])
	return rand.New(rand.NewPCG(hi, lo^salt*0x9e3779b97f4a7c15))
}
