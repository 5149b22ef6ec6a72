// Package fleet parts an endpoint's limits among all processes that ask it. They meet in
// the store alone.
//
// Words used here:
//
//   - Member: a process that asks an endpoint. It joins when it first wants to, and leaves
//     when it stops or has not wanted to for a while.
//   - Demand: the part of the endpoint's limits that a member could use, from 0 to 1.
//   - Lease: a member's object, limits/<endpoint>/<worker>.json, which it alone renews and
//     which says what it demands and claims. No key is used twice.
//   - Claim: the part of the limits that a lease keeps others from.
//   - Share: the part that its member uses. It is never more than the claim.
//
// Every member deals the limits by all demands, and so all come to the same parts. It
// claims its part, and uses less at once where that is less than before. It uses more only
// when, after its claim was written, it has read all others' and found room beside them: of
// two that claim at the same time at least one sees the other's claim. So shares never add
// up to more than 1, however late anybody learns of anything.
//
// A member whose lease is not fresh by its own clock has share 0. One whose lease has stood
// still for one lease time, by the clock of who watches it, is buried: overwritten, which fails
// where it was renewed meanwhile, and removed. When that member wakes it finds its lease gone
// and joins again. No two clocks are ever compared.
package fleet
