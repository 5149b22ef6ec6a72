package workflows

import (
	"go.temporal.io/sdk/workflow"

	"precept/schemas"
)

// Activities tell the run by a signal which endpoints they ask in vain. It is shown while
// they go on, and decides nothing; each such signal is a few more events of the history.

// hear shows what open activities tell of endpoints.
func (f *factory) hear(ctx workflow.Context) {
	f.outages = map[schemas.Teller][]schemas.Outage{}
	ch := workflow.GetSignalChannelWithOptions(ctx, schemas.SignalOutages, workflow.SignalChannelOptions{
		Description: "sent by workers: which endpoints answer nobody",
	})
	workflow.GoNamed(ctx, "signal "+schemas.SignalOutages, func(ctx workflow.Context) {
		for {
			var told schemas.OutagesTold
			if more := ch.Receive(ctx, &told); !more {
				return
			}
			if _, open := f.outages[told.By]; open { // a late one is of no use
				f.outages[told.By] = told.Outages
				workflow.SetCurrentDetails(ctx, details(f.progress()))
			}
		}
	})
}

// asking opens an activity that may tell of endpoints. What it has told is forgotten when it
// is over.
func (f *factory) asking(ctx workflow.Context, by schemas.Teller) (over func()) {
	f.outages[by] = nil
	return func() {
		shown := len(f.outages[by]) > 0
		delete(f.outages, by)
		if shown {
			workflow.SetCurrentDetails(ctx, details(f.progress()))
		}
	}
}
