//! Starts the real servers that tests and benchmarks need: Kafka, Consul, MariaDB, PostgreSQL.
