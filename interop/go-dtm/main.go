// Command go-dtm is DTM's own client for Go as the Rust tests meet it.
//
//	go-dtm barrier --driver mysql --dsn DSN --table SCHEMA.TABLE   its barrier, a call for each line
//	go-dtm redis --address HOST:PORT                               its barrier on Redis, a call for each line
//	go-dtm serve --dsn DSN --table SCHEMA.TABLE                    a participant, a line for each call
//	go-dtm branches                                                branches that do nothing
//	go-dtm drive-sagas --dtm HOST:PORT --branches HOST:PORT        sagas, measured from outside
//
// Each subcommand stands in a file of its own and adds itself to the table. A result is one line of
// JSON on stdout; what the client logs goes to stderr. It ends with 0 after a success, with 1 after a
// failure that is told as JSON, with 2 where the command line is wrong.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

// command is what a subcommand does with its arguments.
type command struct {
	summary string
	run     func(arguments []string) error
}

var commands = map[string]command{}

// results is the program's stdout, whatever os.Stdout is made to be.
var results = os.Stdout

func main() {
	if len(os.Args) < 2 {
		wrongUsage("no subcommand")
	}
	chosen, isKnown := commands[os.Args[1]]
	if !isKnown {
		wrongUsage(fmt.Sprintf("no subcommand %q", os.Args[1]))
	}
	// The client's logger prints to stdout: that is for results.
	os.Stdout = os.Stderr
	if err := chosen.run(os.Args[2:]); err != nil {
		tell(map[string]any{"failure": err.Error()})
		os.Exit(1)
	}
}

// tell prints one result.
func tell(result any) {
	line, err := json.Marshal(result)
	if err != nil {
		fmt.Fprintln(os.Stderr, "go-dtm: a result is no JSON: "+err.Error())
		os.Exit(1)
	}
	fmt.Fprintln(results, string(line))
}

func wrongUsage(message string) {
	names := make([]string, 0, len(commands))
	for name, command := range commands {
		names = append(names, fmt.Sprintf("  %-12s %s", name, command.summary))
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "go-dtm: %s; expected one of\n%s\n", message, strings.Join(names, "\n"))
	os.Exit(2)
}
