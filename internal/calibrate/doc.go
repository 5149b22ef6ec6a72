// Package calibrate measures a judge against people's labels, and against another
// judge. It does no I/O.
//
// Words used here:
//
//   - Rated: an answer with the judge's score, and whether people find it good.
//   - Cut: what a threshold makes of the rated answers: the confusion matrix of kept
//     and good, and the shares that follow from it.
//   - Kappa: Cohen's agreement of two raters beyond chance: 1 is full agreement, 0
//     what chance gives.
//   - Bin: the answers whose scores lie within a tenth. A judge is calibrated where
//     the share of good ones is about their score; ECE is the mean distance.
//   - Target: the lowest threshold whose precision is shown to be as high as wanted:
//     the lower end of its 95% interval reaches it, not the figure alone.
//
// All intervals are Wilson's, at 95%, but kappa's, which is the usual one of large
// samples. They take the answers as independent.
package calibrate
