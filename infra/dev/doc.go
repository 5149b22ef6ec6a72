// Command precept-dev holds the embedded stack together: everything that Precept
// needs to run on one machine, without containers.
//
//	precept-dev up [process...]   start the stack, or just some processes and what they depend on
//	precept-dev down              stop it, leftovers of a killed one included
//	precept-dev demo              up, then the quickstart from start to report
//	precept-dev status            what runs, on which ports
//	precept-dev env               the environment of the stack, to eval in a shell
//	precept-dev clean-check       fail if anything of this checkout still runs
//
// Words:
//
//   - The stack is the set of processes in process-compose.yaml. One checkout has one
//     stack; all its state lies under .precept/.
//   - process-compose is the supervisor: it starts the processes in order, probes them,
//     restarts them and writes their logs. It is reached by a socket under .precept/run.
//   - A member is any process that carries the stack's mark, PRECEPT_STACK=<checkout>, in
//     its environment. Every process of the stack inherits it, and so does what they
//     start, so that members are found even after their supervisor was killed.
//   - A leftover is a member without a supervisor.
//   - The owner is the command that started the stack and stops it: a demo, or nobody.
package main
