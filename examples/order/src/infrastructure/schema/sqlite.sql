-- The tables of the order service: the columns of the Go order service that its flows use, and the
-- audit projection. Amounts are decimals as text, because SQLite has no decimal type.
CREATE TABLE IF NOT EXISTS orders (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id INTEGER NOT NULL DEFAULT 0,
  order_code TEXT NOT NULL DEFAULT '',
  trade_time TEXT NULL,
  pay_status INTEGER NOT NULL DEFAULT 0,
  ship_status INTEGER NOT NULL DEFAULT 0,
  pay_error TEXT NOT NULL DEFAULT '',
  pay_time TEXT NULL,
  price TEXT NOT NULL DEFAULT '0.00',
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL,
  CONSTRAINT uk_order_code UNIQUE (order_code)
);
CREATE TABLE IF NOT EXISTS order_details (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  order_id INTEGER NOT NULL DEFAULT 0,
  user_id INTEGER NOT NULL DEFAULT 0,
  sku_id INTEGER NOT NULL DEFAULT 0,
  product_id INTEGER NOT NULL DEFAULT 0,
  quantity INTEGER NOT NULL DEFAULT 1,
  unit_price TEXT NOT NULL DEFAULT '0.00',
  total_price TEXT NOT NULL DEFAULT '0.00',
  actual_payment TEXT NOT NULL DEFAULT '0.00',
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL
);
CREATE INDEX IF NOT EXISTS idx_order_details_order_id ON order_details (order_id);
CREATE TABLE IF NOT EXISTS order_audit (
  order_id INTEGER PRIMARY KEY,
  applied_seq INTEGER NOT NULL,
  out_of_order INTEGER NOT NULL
);
