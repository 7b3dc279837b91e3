// Command go-peer is go-micro v4 as the Rust tests meet it.
//
//	go-peer serve --registry consul://ADDR --service NAME   a service that answers
//	go-peer call  --address ADDR --endpoint Greeter.Hello   one call of a service
//	go-peer drive-calls --registry … --service NAME         calls, measured from outside
//
// Each subcommand stands in a file of its own and adds itself to the table. A result is one line of
// JSON on stdout; what go-micro logs goes to stderr. It ends with 0 after a success, with 1 after a
// failure that is told as JSON, with 2 where the command line is wrong.
package main

import (
	"encoding/json"
	"errors"
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

// errTold is returned by a subcommand that told its failure as JSON.
var errTold = errors.New("told")

func main() {
	if len(os.Args) < 2 {
		wrongUsage("no subcommand")
	}
	chosen, isKnown := commands[os.Args[1]]
	if !isKnown {
		wrongUsage(fmt.Sprintf("no subcommand %q", os.Args[1]))
	}
	arguments := os.Args[2:]
	// go-micro reads os.Args where it parses flags of its own: these are ours.
	os.Args = os.Args[:1]
	// go-micro's logger prints to stdout whatever it is told: that is for results.
	os.Stdout = os.Stderr
	switch err := chosen.run(arguments); {
	case err == nil:
	case errors.Is(err, errTold):
		os.Exit(1)
	default:
		tell(map[string]any{"failure": err.Error()})
		os.Exit(1)
	}
}

// tell prints one result.
func tell(result any) {
	line, err := json.Marshal(result)
	if err != nil {
		fmt.Fprintln(os.Stderr, "go-peer: a result is no JSON: "+err.Error())
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
	fmt.Fprintf(os.Stderr, "go-peer: %s; expected one of\n%s\n", message, strings.Join(names, "\n"))
	os.Exit(2)
}
