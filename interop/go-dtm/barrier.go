package main

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/dtm-labs/client/dtmcli"
	_ "github.com/go-sql-driver/mysql"
	_ "github.com/lib/pq"
)

func init() {
	commands["barrier"] = command{"DTM's barrier, a call for each line of stdin", barrier}
}

// asked is a line of stdin: a call of a branch, or the question whether a message's local transaction
// committed.
type asked struct {
	Do        string `json:"do"`
	TransType string `json:"trans_type"`
	Gid       string `json:"gid"`
	BranchID  string `json:"branch_id"`
	Op        string `json:"op"`
	// Statement is the branch's business.
	Statement string `json:"statement"`
}

// answered is a line of stdout.
type answered struct {
	// Called says whether the business was called.
	Called bool   `json:"called"`
	Error  string `json:"error"`
}

func barrier(arguments []string) error {
	flags := flag.NewFlagSet("barrier", flag.ExitOnError)
	driver := flags.String("driver", "mysql", "mysql or postgres")
	dsn := flags.String("dsn", "", "where the database is, as the driver writes it")
	table := flags.String("table", "dtm_barrier.barrier", "the barrier's table")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	dtmcli.SetCurrentDBType(*driver)
	// Its question after a message takes the global name, whatever the barrier's own is.
	dtmcli.SetBarrierTableName(*table)
	database, err := sql.Open(*driver, *dsn)
	if err != nil {
		return err
	}
	defer database.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var line asked
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("a line is no JSON: %w", err)
		}
		answer, err := answer(database, line)
		if err != nil {
			return err
		}
		tell(answer)
	}
	return lines.Err()
}

func answer(database *sql.DB, line asked) (answered, error) {
	branch, err := dtmcli.BarrierFrom(line.TransType, line.Gid, line.BranchID, line.Op)
	if err != nil {
		return answered{}, err
	}
	var answer answered
	switch line.Do {
	case "call":
		err = branch.CallWithDB(database, func(tx *sql.Tx) error {
			answer.Called = true
			_, err := tx.Exec(line.Statement)
			return err
		})
	case "prepared":
		err = branch.QueryPrepared(database)
	default:
		return answered{}, errors.New("expected call or prepared, not " + line.Do)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	return answer, nil
}
