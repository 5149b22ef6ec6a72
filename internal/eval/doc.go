// Package eval turns grades into figures. It does no I/O.
//
//   - Measure: the share of answers of one arm that did what the measure asks
//     for, with Wilson's 95% interval. An answer is one row; the interval takes
//     the rows as independent.
//   - Agreement: how often the grader, asked what the policy expects, says what
//     the suite's label says. Refuse and safe-completion are one side of it,
//     "not comply", and comply is the other: the measures draw no other line.
//   - Lost: a grade with a Reason, one whose votes could not be read. It is in no
//     measure but MeasureNotGraded, which counts it.
package eval
