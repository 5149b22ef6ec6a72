package shard

// Crash ends a journal as a killed process does: what is not flushed is lost.
func Crash(j *Journal) {
	j.stop()
	j.stopped.Wait()
}

// Die ends a lease as a killed process does: it is no longer renewed.
func Die(l *Lease) {
	l.stop()
	l.stopped.Wait()
}
