-- The tables of the product service: the columns of the Go product service that its flows use.
-- Amounts are decimals as text, because SQLite has no decimal type. Beyond the Go service's tables
-- an order is decided once and changes a SKU once per source: unique keys say so.
CREATE TABLE IF NOT EXISTS products (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  product_no TEXT NOT NULL,
  product_name TEXT NOT NULL,
  category_id INTEGER NOT NULL,
  brand_id INTEGER NULL,
  main_image TEXT NULL,
  description TEXT NULL,
  status INTEGER NOT NULL DEFAULT 1,
  is_deleted INTEGER DEFAULT 0,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL,
  CONSTRAINT uk_product_no UNIQUE (product_no)
);
CREATE TABLE IF NOT EXISTS product_skus (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  product_id INTEGER NOT NULL,
  sku_no TEXT NOT NULL,
  sku_name TEXT NOT NULL,
  spec_value_ids TEXT NOT NULL DEFAULT '',
  spec_value_text TEXT NOT NULL DEFAULT '',
  price TEXT NOT NULL,
  market_price TEXT NULL,
  stock INTEGER NOT NULL DEFAULT 0 CHECK (stock >= 0),
  stock_warn INTEGER NOT NULL DEFAULT 10,
  sales INTEGER NOT NULL DEFAULT 0,
  main_image TEXT NULL,
  status INTEGER NOT NULL DEFAULT 1,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL,
  CONSTRAINT uk_sku_no UNIQUE (sku_no)
);
CREATE TABLE IF NOT EXISTS sku_images (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  sku_id INTEGER NOT NULL,
  image_url TEXT NOT NULL,
  is_main INTEGER NOT NULL DEFAULT 0,
  display_order INTEGER NOT NULL DEFAULT 0,
  is_deleted INTEGER DEFAULT 0,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_sku_images_sku_id ON sku_images (sku_id);
CREATE TABLE IF NOT EXISTS order_inventory_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL DEFAULT '',
  order_id INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT uk_event_id UNIQUE (event_id),
  CONSTRAINT uk_order_id UNIQUE (order_id)
);
CREATE TABLE IF NOT EXISTS inventory_stock_change_records (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  order_id INTEGER NOT NULL DEFAULT 0,
  sku_id INTEGER NOT NULL DEFAULT 0,
  source_type INTEGER NOT NULL DEFAULT 0,
  quantity INTEGER NOT NULL DEFAULT 0,
  before_stock INTEGER NOT NULL DEFAULT 0,
  after_stock INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL,
  CONSTRAINT uk_order_sku_source UNIQUE (order_id, sku_id, source_type)
);
CREATE INDEX IF NOT EXISTS idx_stock_change_sku_id ON inventory_stock_change_records (sku_id);
CREATE TABLE IF NOT EXISTS suppliers (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  contact_person TEXT NOT NULL,
  phone TEXT NOT NULL,
  email TEXT NOT NULL,
  address TEXT NOT NULL,
  rating TEXT NOT NULL,
  lead_time_days INTEGER NOT NULL,
  payment_terms TEXT NOT NULL,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL
);
CREATE TABLE IF NOT EXISTS supplier_products (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  supplier_id INTEGER NOT NULL,
  sku_id INTEGER NOT NULL,
  supply_price TEXT NOT NULL DEFAULT '0.00',
  min_order_quantity INTEGER NOT NULL DEFAULT 0,
  is_preferred INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_supplier_products_sku_id ON supplier_products (sku_id);
CREATE TABLE IF NOT EXISTS sku_restock_records (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id INTEGER NOT NULL DEFAULT -1,
  sku_id INTEGER NOT NULL DEFAULT 0,
  quantity INTEGER NOT NULL,
  reason TEXT NOT NULL,
  status INTEGER NOT NULL DEFAULT 1,
  failed_reason TEXT NOT NULL DEFAULT '',
  application_no TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL
);
CREATE INDEX IF NOT EXISTS idx_restock_application_no ON sku_restock_records (application_no);
CREATE TABLE IF NOT EXISTS sku_restock_audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  restock_id INTEGER NOT NULL DEFAULT 0,
  audit_user_id INTEGER NOT NULL DEFAULT 0,
  audit_status INTEGER NOT NULL DEFAULT 1,
  audit_failed_reason TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
  deleted_at TEXT NULL DEFAULT NULL
);
CREATE INDEX IF NOT EXISTS idx_restock_audit_restock_id ON sku_restock_audit (restock_id);
