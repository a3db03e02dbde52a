// Command peer-etcd measures leases and elections of an etcd of one member, which it starts and ends.
//
//	peer-etcd --modes closed,window,renew,takeover --window 128 --seconds 2 [--sync] [--dir DIR]
//
// It prints one line of JSON per mode. A claim is Election.Campaign of an application that nobody leads, over a lease that
// was granted before: what a process of a user does that has its session already. Each claim is resigned again.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	// Connections that the requests of a window are spread over.
	connections = 4
	// Seconds of a lease whose holder dies: the shortest that etcd grants with its default election timeout.
	takeoverTTL = 2
	// Applications whose holders die in one run.
	takeovers = 64
	// Longest that the server is waited for.
	patience = 20 * time.Second
)

type options struct {
	modes   string
	window  int
	seconds float64
	warmup  float64
	sync    bool
	dir     string
}

func main() {
	var o options
	flag.StringVar(&o.modes, "modes", "closed,window,renew,takeover", "what to measure")
	flag.IntVar(&o.window, "window", 128, "requests outstanding in the modes window and renew")
	flag.Float64Var(&o.seconds, "seconds", 2, "time of each measurement, s")
	flag.Float64Var(&o.warmup, "warmup", 1, "time before each measurement, s")
	flag.BoolVar(&o.sync, "sync", false, "the server syncs its log to the disk")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where the server's directory is made")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "peer-etcd:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	server, err := start(o)
	if err != nil {
		return err
	}
	defer server.stop()
	clients := make([]*clientv3.Client, connections)
	for i := range clients {
		clients[i], err = clientv3.New(clientv3.Config{
			Endpoints:   []string{server.endpoint},
			DialTimeout: patience,
		})
		if err != nil {
			return err
		}
		defer clients[i].Close()
	}
	if err := server.ready(clients[0]); err != nil {
		return err
	}
	for _, mode := range strings.Split(o.modes, ",") {
		result, err := measure(mode, clients, o)
		if err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
		result["bench"], result["size"], result["mode"], result["sync"] = "leases", 64, mode, o.sync
		if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
			return err
		}
	}
	return nil
}

func measure(mode string, clients []*clientv3.Client, o options) (map[string]any, error) {
	switch mode {
	case "closed":
		return rounds(clients, 1, o, claimer)
	case "window":
		return rounds(clients, o.window, o, claimer)
	case "renew":
		return rounds(clients, o.window, o, renewer)
	case "takeover":
		return takeover(clients)
	}
	return nil, fmt.Errorf("no such mode")
}

// round does one timed operation and what belongs to it untimed.
type round func(ctx context.Context) (time.Duration, error)

// claimer claims and resigns an application of its own over and over.
func claimer(ctx context.Context, client *clientv3.Client, worker int) (round, error) {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(60))
	if err != nil {
		return nil, err
	}
	election := concurrency.NewElection(session, fmt.Sprintf("/bench/application-%04d/", worker))
	unit := fmt.Sprintf("application-%04d/0", worker)
	return func(ctx context.Context) (time.Duration, error) {
		begin := time.Now()
		if err := election.Campaign(ctx, unit); err != nil {
			return 0, err
		}
		taken := time.Since(begin)
		return taken, election.Resign(ctx)
	}, nil
}

// renewer keeps a lease alive.
func renewer(ctx context.Context, client *clientv3.Client, worker int) (round, error) {
	grant, err := client.Grant(ctx, 60)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (time.Duration, error) {
		begin := time.Now()
		_, err := client.KeepAliveOnce(ctx, grant.ID)
		return time.Since(begin), err
	}, nil
}

func rounds(
	clients []*clientv3.Client,
	workers int,
	o options,
	prepare func(context.Context, *clientv3.Client, int) (round, error),
) (map[string]any, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	steps := make([]round, workers)
	for worker := range steps {
		var err error
		if steps[worker], err = prepare(ctx, clients[worker%len(clients)], worker); err != nil {
			return nil, err
		}
	}
	from := time.Now().Add(time.Duration(o.warmup * float64(time.Second)))
	until := from.Add(time.Duration(o.seconds * float64(time.Second)))
	times := make([][]time.Duration, workers)
	failures := make([]error, workers)
	var group sync.WaitGroup
	for worker, step := range steps {
		group.Add(1)
		go func() {
			defer group.Done()
			for time.Now().Before(until) {
				taken, err := step(ctx)
				if err != nil {
					failures[worker] = err
					return
				}
				if now := time.Now(); now.After(from) && now.Before(until) {
					times[worker] = append(times[worker], taken)
				}
			}
		}()
	}
	group.Wait()
	var all []time.Duration
	for worker := range steps {
		if failures[worker] != nil {
			return nil, failures[worker]
		}
		all = append(all, times[worker]...)
	}
	return summary(all, float64(len(all))/o.seconds), nil
}

// takeover lets holders die; the times are from the end of each lease to the moment that the next one knows it leads.
func takeover(clients []*clientv3.Client) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*takeoverTTL*time.Second)
	defer cancel()
	times := make([]time.Duration, takeovers)
	failures := make([]error, takeovers)
	var group sync.WaitGroup
	for i := range times {
		group.Add(1)
		go func() {
			defer group.Done()
			// Deaths spread over a second: not all at the same moment of the server's rounds.
			time.Sleep(time.Duration(i) * time.Second / takeovers)
			times[i], failures[i] = die(ctx, clients[i%len(clients)], i)
		}()
	}
	group.Wait()
	for _, failure := range failures {
		if failure != nil {
			return nil, failure
		}
	}
	return summary(times, 0), nil
}

func die(ctx context.Context, client *clientv3.Client, i int) (time.Duration, error) {
	prefix := fmt.Sprintf("/takeover/application-%04d/", i)
	begin := time.Now()
	grant, err := client.Grant(ctx, takeoverTTL)
	if err != nil {
		return 0, err
	}
	// The first key below the prefix leads, as Campaign has it; nothing renews its lease.
	if _, err := client.Put(ctx, fmt.Sprintf("%s%x", prefix, grant.ID), "first", clientv3.WithLease(grant.ID)); err != nil {
		return 0, err
	}
	session, err := concurrency.NewSession(client, concurrency.WithTTL(60))
	if err != nil {
		return 0, err
	}
	if err := concurrency.NewElection(session, strings.TrimSuffix(prefix, "/")).Campaign(ctx, "second"); err != nil {
		return 0, err
	}
	late := time.Since(begin) - takeoverTTL*time.Second
	if late <= 0 {
		return 0, fmt.Errorf("the second leads %s before the first lease is over", -late)
	}
	return late, nil
}

func summary(times []time.Duration, rate float64) map[string]any {
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	quantile := func(q float64) int64 {
		if len(times) == 0 {
			return 0
		}
		return times[int(q*float64(len(times)-1))].Nanoseconds()
	}
	result := map[string]any{"p50_ns": quantile(0.5), "p99_ns": quantile(0.99), "max_ns": quantile(1)}
	if rate > 0 {
		result["msgs_per_s"] = rate
	}
	return result
}

// server is an etcd process with a directory of its own.
type server struct {
	command  *exec.Cmd
	dir      string
	endpoint string
}

func start(o options) (*server, error) {
	dir, err := os.MkdirTemp(o.dir, "peer-etcd-")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	client := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	arguments := []string{
		"--name", "one", "--data-dir", filepath.Join(dir, "data"), "--logger", "zap", "--log-level", "fatal",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "one=" + peer,
	}
	if !o.sync {
		arguments = append(arguments, "--unsafe-no-fsync")
	}
	command := exec.Command("etcd", arguments...)
	if err := command.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &server{command: command, dir: dir, endpoint: client}, nil
}

func (s *server) ready(client *clientv3.Client) error {
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := client.Get(ctx, "ready")
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("etcd does not answer: %w", err)
		}
	}
}

func (s *server) stop() {
	_ = s.command.Process.Kill()
	_ = s.command.Wait()
	_ = os.RemoveAll(s.dir)
}

func freePorts(count int) ([]int, error) {
	ports := make([]int, count)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
