package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/go-redis/redis/v8"
)

func init() {
	commands["redis"] = command{"DTM's barrier on Redis, a call for each line of stdin", onRedis}
}

// adjusted is a line of stdin: a call of a branch that adjusts an integer, or the question whether a
// message's local part took place.
type adjusted struct {
	asked
	Key    string `json:"key"`
	Amount int    `json:"amount"`
}

func onRedis(arguments []string) error {
	flags := flag.NewFlagSet("redis", flag.ExitOnError)
	address := flags.String("address", "", "where Redis is, host:port")
	expire := flags.Int("expire", 600, "how long the barrier's keys are kept, seconds")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: *address})
	defer client.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var line adjusted
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("a line is no JSON: %w", err)
		}
		branch, err := dtmcli.BarrierFrom(line.TransType, line.Gid, line.BranchID, line.Op)
		if err != nil {
			return err
		}
		switch line.Do {
		case "adjust":
			err = branch.RedisCheckAdjustAmount(client, line.Key, line.Amount, *expire)
		case "prepared":
			err = branch.RedisQueryPrepared(client, *expire)
		default:
			return errors.New("expected adjust or prepared, not " + line.Do)
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		tell(map[string]any{"error": text})
	}
	return lines.Err()
}
