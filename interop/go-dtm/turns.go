package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// turn is one line of the input: so many at a time, for so long.
type turn struct {
	Width  int `json:"width"`
	Millis int `json:"millis"`
}

// inTurns does something again and again in so many goroutines, a turn for each line of the input, and
// tells how often it was done.
func inTurns(once func() error) error {
	tell(map[string]any{"ready": true})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var t turn
		if err := json.Unmarshal(lines.Bytes(), &t); err != nil || t.Width < 1 || t.Millis < 1 {
			return fmt.Errorf("the turn %q is none; expected {\"width\":16,\"millis\":1000}", lines.Text())
		}
		began := time.Now()
		count, err := t.run(once)
		if err != nil {
			return err
		}
		tell(map[string]any{"count": count, "seconds": time.Since(began).Seconds()})
	}
	return lines.Err()
}

func (t turn) run(once func() error) (int64, error) {
	end := time.Now().Add(time.Duration(t.Millis) * time.Millisecond)
	failures := make(chan error, t.Width)
	var count int64
	var running sync.WaitGroup
	for loop := 0; loop < t.Width; loop++ {
		running.Add(1)
		go func() {
			defer running.Done()
			for time.Now().Before(end) {
				if err := once(); err != nil {
					failures <- err
					return
				}
				atomic.AddInt64(&count, 1)
			}
		}()
	}
	running.Wait()
	select {
	case err := <-failures:
		return 0, err
	default:
		return count, nil
	}
}
