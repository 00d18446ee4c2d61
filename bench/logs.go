package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"golang.org/x/sys/unix"

	"keelson/services/capture"
	"keelson/services/spool"
)

// Logs is how fast a container's output is taken from its pipe: by us, to the ring and to its file, and by
// containerd's own client library, which copies to a file and keeps no times. Both run on the host, so it is what
// the one is beside the other that means something.
type Logs struct {
	Bulk  Rates `json:"bulk"`  // writes of 64 KiB
	Lines Rates `json:"lines"` // a write for each line
}

// Rates are of both ways of copying the same.
type Rates struct {
	Ours Rate `json:"keelson"`
	CIO  Rate `json:"cio"`
}

// Rate is what one way of copying does: the medians of several runs.
type Rate struct {
	MBSec    float64 `json:"mb_per_s"`
	LinesSec float64 `json:"lines_per_s"`
	CPUPerMB float64 `json:"cpu_ms_per_mb"` // of the side that reads
}

const (
	logWriter    = "write-log" // the argument that makes the program the writer
	logLine      = 100         // bytes
	logRuns      = 9
	bulkMB       = 128
	linesMB      = 32
	bulkWrite    = 64 << 10
	logReadBound = time.Minute
)

// logEnd is the last line: a copy that has it at its end is complete.
var logEnd = append(bytes.Repeat([]byte{'.'}, logLine-1), '\n')

// writeLog is the container's side: it writes so many megabytes of lines to a FIFO, in writes of a size. It says by
// a byte that it could begin, and begins when its input ends.
func writeLog(path, megabytes, size string) error {
	mb, err := strconv.Atoi(megabytes)
	if err != nil {
		return err
	}
	each, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	// As a container has it: a write waits in the kernel.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	w := bufio.NewWriterSize(blocking(fd), each)
	line := make([]byte, logLine)
	for i := range line {
		line[i] = 'a' + byte(i%26)
	}
	line[logLine-1] = '\n'
	if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	for range mb*megabyte/logLine - 1 {
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	if _, err := w.Write(logEnd); err != nil {
		return err
	}
	return w.Flush()
}

// blocking is a descriptor that the Go runtime does not wait for.
type blocking int

func (fd blocking) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n, err := unix.Write(int(fd), p[done:])
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// logs measures both ways of copying, in turn, so that both have the same neighbours.
func logs(ctx context.Context) (*Logs, error) {
	result := &Logs{}
	for _, kind := range []struct {
		to     *Rates
		mb, by int
	}{{&result.Bulk, bulkMB, bulkWrite}, {&result.Lines, linesMB, logLine}} {
		var ours, theirs []Rate
		for range logRuns {
			for _, way := range []struct {
				to  *[]Rate
				run copying
			}{{&ours, ourCopy}, {&theirs, cioCopy}} {
				rate, err := measureCopy(ctx, kind.mb, kind.by, way.run)
				if err != nil {
					return nil, err
				}
				*way.to = append(*way.to, rate)
			}
		}
		kind.to.Ours, kind.to.CIO = medians(ours), medians(theirs)
	}
	return result, nil
}

// medians are those of each number for itself.
func medians(runs []Rate) Rate {
	median := func(of func(Rate) float64) float64 {
		var all []float64
		for _, r := range runs {
			all = append(all, of(r))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	speed := median(func(r Rate) float64 { return r.MBSec })
	return Rate{MBSec: speed, LinesSec: speed * megabyte / logLine, CPUPerMB: median(func(r Rate) float64 { return r.CPUPerMB })}
}

// copying has write write to a FIFO of its own in a folder, and copies that to the file it returns.
type copying func(ctx context.Context, dir string, write func(fifo string) error) (file string, err error)

// measureCopy runs one way of copying, from the first write to the last byte in the file. Files are in memory where
// there is a place for them.
func measureCopy(ctx context.Context, mb, by int, run copying) (Rate, error) {
	dir, err := os.MkdirTemp("/dev/shm", "keelson-bench-")
	if err != nil {
		dir, err = os.MkdirTemp("", "keelson-bench-")
	}
	if err != nil {
		return Rate{}, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, logReadBound)
	defer cancel()
	var before, after unix.Rusage
	var began time.Time
	file, err := run(ctx, dir, func(fifo string) error {
		command := exec.CommandContext(ctx, "/proc/self/exe", logWriter, fifo, strconv.Itoa(mb), strconv.Itoa(by))
		command.Stderr = os.Stderr
		begin, err := command.StdinPipe()
		if err != nil {
			return err
		}
		ready, err := command.StdoutPipe()
		if err != nil {
			return err
		}
		if err := command.Start(); err != nil {
			return err
		}
		if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
			_ = begin.Close()
			return errors.Join(err, command.Wait())
		}
		runtime.GC() // of what the run before this one has left
		if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
			return err
		}
		began = time.Now()
		_ = begin.Close()
		return command.Wait()
	})
	took := time.Since(began).Seconds()
	if err != nil {
		return Rate{}, err
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		return Rate{}, err
	}
	if data, err := os.ReadFile(file); err != nil {
		return Rate{}, err
	} else if !bytes.HasSuffix(data, logEnd) {
		return Rate{}, fmt.Errorf("%s lacks what was written last", file)
	}
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	return Rate{MBSec: float64(mb) / took, CPUPerMB: cpu.Seconds() * 1000 / float64(mb)}, nil
}

// ourCopy copies as the supervisor does.
func ourCopy(_ context.Context, dir string, write func(string) error) (string, error) {
	began := time.Now()
	now := func() time.Duration { return time.Since(began) }
	var warned error
	warn := func(format string, a ...any) { warned = fmt.Errorf(format, a...) }
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "ring"), Now: now, Warn: warn})
	if err != nil {
		return "", err
	}
	defer sp.Close()
	output, err := capture.New(capture.Config{Spool: sp, Now: now, Memory: 1 << 30}).OpenOutput(capture.OutputConfig{
		Source: "bench", Pipes: filepath.Join(dir, "pipes"), Base: filepath.Join(dir, "bench"), Warn: warn,
	})
	if err != nil {
		return "", err
	}
	stdout, _ := output.Paths()
	err = write(stdout)
	output.Close(false) // its file has all then
	if err == nil {
		err = warned
	}
	return filepath.Join(dir, "bench.out.log"), err
}

// cioCopy copies as clients of containerd do.
func cioCopy(_ context.Context, dir string, write func(string) error) (string, error) {
	file, err := os.Create(filepath.Join(dir, "bench.log"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	// Only a writer: what ReadFrom can do for a file is nothing for a FIFO.
	streams, err := cio.NewCreator(cio.WithFIFODir(dir), cio.WithStreams(nil, struct{ io.Writer }{file}, io.Discard))("bench")
	if err != nil {
		return "", err
	}
	defer streams.Close()
	// The end of stderr is awaited too.
	stderr, err := os.OpenFile(streams.Config().Stderr, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	err = write(streams.Config().Stdout)
	_ = stderr.Close()
	if err != nil {
		streams.Cancel()
	}
	streams.Wait()
	return file.Name(), err
}

// printLogs shows both ways side by side.
func printLogs(w io.Writer, l *Logs) {
	fmt.Fprintf(w, "\n%-34s %10s %12s %12s\n", "logs, on this host", "MB/s", "lines/s", "CPU ms/MB")
	for _, r := range []struct {
		what string
		rate Rate
	}{
		{"64 KiB writes: ring and file", l.Bulk.Ours}, {"64 KiB writes: containerd's cio", l.Bulk.CIO},
		{"a write a line: ring and file", l.Lines.Ours}, {"a write a line: containerd's cio", l.Lines.CIO},
	} {
		fmt.Fprintf(w, "%-34s %10.0f %12.0f %12.2f\n", r.what, r.rate.MBSec, r.rate.LinesSec, r.rate.CPUPerMB)
	}
}
