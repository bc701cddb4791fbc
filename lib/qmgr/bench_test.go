package qmgr

import (
	"context"
	"io"
	"syscall"
	"testing"
	"time"

	"angarium/lib/address"
	"angarium/lib/agent"
	"angarium/lib/maillog"
	"angarium/lib/queue"
)

type nowhere struct{}

func (nowhere) Log(time.Time, maillog.Priority, string, int64, string) error { return nil }

// BenchmarkDrain is a backlog in incoming that goes to one destination whose
// deliveries cost nothing: what is left is the manager's own work.
func BenchmarkDrain(b *testing.B) {
	q, err := queue.Open(b.TempDir(), queue.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		d, err := q.Create(context.Background(), queue.Envelope{Arrival: time.Now(), Sender: address.Parse("a@x.test")})
		if err != nil {
			b.Fatal(err)
		}
		_ = d.Recipient(agent.Recipient{Address: address.Parse("b@far.test")})
		_, _ = io.WriteString(d, "Subject: x\n\nbody\n")
		if err := d.Commit(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	done := make(chan struct{}, b.N)
	m := New(Config{
		Queue: q, Log: maillog.New(nowhere{}, "postfix/qmgr"), Prefix: "postfix/", Resolver: resolver{},
		Transports: map[string]*Transport{"smtp": {Name: "smtp", Recipients: 50, Concurrency: 20,
			Agent: func(_ context.Context, r *agent.Request) []agent.Result {
				done <- struct{}{}
				return make([]agent.Result, len(r.Recipients))
			}}},
	})
	b.ReportAllocs()
	b.ResetTimer()
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error)
	go func() { end <- m.Run(ctx) }()
	for range b.N {
		<-done
	}
	cancel()
	if err := <-end; err != nil {
		b.Error(err)
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us/op")
}
