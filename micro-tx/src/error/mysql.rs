//! The error numbers of MySQL and MariaDB.

use micro_core::ErrorKind;

use super::READ_ONLY;

/// The operating system's words for a full disk, which no setting of the server translates.
const NO_SPACE: &str = "No space left on device";

/// What the text names of the settings that make a server read-only, which no setting translates:
/// `--read-only`, `--super-read-only`, `--innodb-read-only`. Other settings prevent statements too.
const READ_ONLY_SETTING: &str = "read-only";

/// By <https://dev.mysql.com/doc/mysql-errors/8.0/en/server-error-reference.html> and
/// <https://mariadb.com/kb/en/mariadb-error-code-reference/>.
pub(super) fn classify(number: u16, message: &str) -> (ErrorKind, &'static str) {
    match number {
        1022 | 1062 | 1169 | 1586 => (ErrorKind::AlreadyExists, "a row of this key exists already"),
        1216 | 1217 | 1451 | 1452 | 1557 | 1761 | 1762 => {
            (ErrorKind::FailedPrecondition, "a row that is referred to is missing, or still in use")
        }
        1048 | 1138 | 1263 | 1364 | 3819 | 4025 => (ErrorKind::InvalidArgument, "a value breaks a rule of its column"),
        1153 | 1264 | 1265 | 1292 | 1366 | 1367 | 1406 | 1411 | 1690 => {
            (ErrorKind::InvalidArgument, "a value is too large, or not one of its column")
        }
        1213 => (ErrorKind::Aborted, "another transaction won: a deadlock"),
        1205 | 3572 => (ErrorKind::Aborted, "another transaction held a lock for too long"),
        // MariaDB's innodb_snapshot_isolation.
        1020 => (ErrorKind::Aborted, "another transaction changed the row"),
        1317 => (ErrorKind::Cancelled, "the statement was interrupted"),
        1969 | 3024 => (ErrorKind::DeadlineExceeded, "the statement took too long"),
        1040 | 1203 | 1226 => (ErrorKind::ResourceExhausted, "the server has no connection to give"),
        1037 | 1038 | 1041 => (ErrorKind::ResourceExhausted, "the server is out of memory"),
        1461 => (ErrorKind::ResourceExhausted, "the server keeps too many prepared statements"),
        1021 | 1114 => (ErrorKind::ResourceExhausted, "the disk or the table is full"),
        // A file of the server's own, temporary or of its binary log: MariaDB passes the number of
        // its file functions on, and why they failed is in the text alone.
        3 | 1026 | 1030 if message.contains(NO_SPACE) => (ErrorKind::ResourceExhausted, "the disk is full"),
        1206 => (ErrorKind::ResourceExhausted, "the transaction holds too many locks"),
        1047 | 1053 | 1077 | 1079 | 1080 | 1152 | 1158 | 1159 | 1160 | 1161 | 1184 | 1927 | 3169 | 4031 => {
            (ErrorKind::Unavailable, "the server closed the connection")
        }
        1044 | 1142 | 1143 | 1227 | 1370 => (ErrorKind::PermissionDenied, "the database refused the access"),
        1045 | 1251 | 1698 | 1862 | 2059 | 3118 | 4151 => {
            (ErrorKind::Unauthenticated, "the server refused user or password")
        }
        1049 => (ErrorKind::NotFound, "there is no such database"),
        1792 | 1836 | 1874 => READ_ONLY,
        1290 if message.contains(READ_ONLY_SETTING) => READ_ONLY,
        1036 => (ErrorKind::Internal, "the table is read-only"),
        1194 | 1195 | 1712 | 1877 => (ErrorKind::DataLoss, "a table is damaged"),
        // A missing table or wrong SQL is a fault of the deployment, not of the data: an event that
        // meets it must stay deliverable, so the kind is not a permanent one.
        _ => (ErrorKind::Internal, "the database refused the statement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_mysql_has_its_kind() {
        for (numbers, kind) in [
            (&[1022, 1062, 1169, 1586][..], ErrorKind::AlreadyExists),
            (&[1216, 1217, 1451, 1452, 1557, 1761, 1762], ErrorKind::FailedPrecondition),
            (&[1048, 1138, 1263, 1364, 3819, 4025], ErrorKind::InvalidArgument),
            (&[1153, 1264, 1265, 1292, 1366, 1367, 1406, 1411, 1690], ErrorKind::InvalidArgument),
            (&[1213, 1205, 3572, 1020], ErrorKind::Aborted),
            (&[1317], ErrorKind::Cancelled),
            (&[1969, 3024], ErrorKind::DeadlineExceeded),
            (&[1040, 1203, 1226, 1037, 1038, 1041, 1461, 1021, 1114, 1206], ErrorKind::ResourceExhausted),
            (
                &[1047, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3169, 4031],
                ErrorKind::Unavailable,
            ),
            (&[1044, 1142, 1143, 1227, 1370], ErrorKind::PermissionDenied),
            (&[1045, 1251, 1698, 1862, 2059, 3118, 4151], ErrorKind::Unauthenticated),
            (&[1049], ErrorKind::NotFound),
            (&[1792, 1836, 1874], ErrorKind::Unavailable),
            (&[1194, 1195, 1712, 1877], ErrorKind::DataLoss),
            (&[1036, 1054, 1064, 1146, 1290, 0], ErrorKind::Internal),
        ] {
            for number in numbers {
                assert_eq!(classify(*number, "").0, kind, "number {number}");
            }
        }
    }

    #[test]
    fn a_server_that_became_read_only_is_one_of_the_settings_that_prevent_a_statement() {
        for setting in ["--read-only", "--super-read-only", "--innodb-read-only", "--read-only=NO_LOCK"] {
            let text = format!("The MySQL server is running with the {setting} option so it cannot execute this");
            assert_eq!(classify(1290, &text).0, ErrorKind::Unavailable, "{text}");
        }
        let text = "The MySQL server is running with the --secure-file-priv option so it cannot execute this";
        assert_eq!(classify(1290, text).0, ErrorKind::Internal);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_a_full_disk_where_the_text_says_so() {
        let full = "Error writing file './binlog.000001' (Errcode: 28 \"No space left on device\")";
        let damaged = "Error writing file './binlog.000001' (Errcode: 5 \"Input/output error\")";
        for number in [3, 1026, 1030] {
            assert_eq!(classify(number, full).0, ErrorKind::ResourceExhausted, "number {number}");
            assert_eq!(classify(number, damaged).0, ErrorKind::Internal, "number {number}");
        }
    }
}
