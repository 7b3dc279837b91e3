// DTM's server alone: its APIs without its admin pages, which a build from source would fetch from an
// outside host, and with its tables made in a MySQL store.
package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dtm-labs/dtm/dtmsvr/config"
	"github.com/dtm-labs/dtm/dtmsvr/entry"
	_ "github.com/go-sql-driver/mysql"
)

// How long a store may take until it answers.
const storeWaitMax = 60 * time.Second

func main() {
	version := "v1.19.0"
	if len(os.Args) == 3 && os.Args[1] == "-c" {
		config.MustLoadConfig(os.Args[2])
		if store := config.Config.Store; store.Driver == config.Mysql {
			if err := makeTables(store); err != nil {
				fmt.Fprintln(os.Stderr, "the tables of the store cannot be made:", err)
				os.Exit(1)
			}
		}
	}
	app, _ := entry.Main(&version)
	if app == nil {
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}

// makeTables runs DTM's own script, but for what it drops, in the database of the settings.
func makeTables(store config.Store) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	script, err := os.ReadFile(filepath.Join(filepath.Dir(program), "source", "sqls", "dtmsvr.storage.mysql.sql"))
	if err != nil {
		return err
	}
	address := fmt.Sprintf("%s:%s@tcp(%s:%d)/", store.User, store.Password, store.Host, store.Port)
	database, err := sql.Open("mysql", address)
	if err != nil {
		return err
	}
	defer database.Close()
	for deadline := time.Now().Add(storeWaitMax); ; time.Sleep(100 * time.Millisecond) {
		if err = database.Ping(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return err
	}
	named := strings.NewReplacer("EXISTS dtm\n", "EXISTS "+store.Db+"\n", "EXISTS dtm.", "EXISTS "+store.Db+".")
	for _, statement := range strings.Split(named.Replace(string(script)), ";") {
		statement = strings.TrimSpace(statement)
		if statement == "" || strings.HasPrefix(statement, "drop ") {
			continue
		}
		if _, err := database.Exec(statement); err != nil {
			return fmt.Errorf("%w, in: %s", err, statement)
		}
	}
	return nil
}
