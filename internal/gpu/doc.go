// Package gpu finds the machine's CUDA devices, tells whether they are well, plans a job for
// them, and gives them to one job at a time.
//
//   - Device: a GPU, or a part of one (MIG), that this process may see. CUDA_VISIBLE_DEVICES
//     bounds and orders them, as for every CUDA program.
//   - Inventory: the devices, or why there are none.
//   - Probe: the program gpuprobe (internal/gpu/probe), the only one that talks to the driver.
//   - Check: memory is taken on a device, a pattern copied there and back, and compared.
//   - Plan: processes, number format, batch and accumulation of a job, and the memory that it is
//     estimated to need.
//   - Lease: the right to use devices, which ends with the process that holds it.
//   - Leftover: a process of a dead holder that is still there.
//
// The driver is asked by a program of its own, built with the tag cuda on gorgonia.org/cu, and
// not by the worker. That package ends its process while it is imported where the driver finds no device,
// and a program linked with it isn't even loaded where libcuda.so.1 is missing; a context
// holds some hundred megabytes of the device while its process lives, and after one error of a sick device
// fails for good. So the worker needs neither cgo nor a driver, and no answer of a sick one
// takes it along.
package gpu
