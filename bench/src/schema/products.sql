-- The product tables of the Go and the hand-written chain.
CREATE TABLE products (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  product_no VARCHAR(64) NOT NULL,
  product_name VARCHAR(255) NOT NULL,
  category_id INT UNSIGNED NOT NULL,
  UNIQUE KEY uk_product_no (product_no)
);
CREATE TABLE product_skus (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  product_id INT UNSIGNED NOT NULL,
  sku_no VARCHAR(64) NOT NULL,
  sku_name VARCHAR(255) NOT NULL,
  price DECIMAL(18,2) NOT NULL,
  stock INT UNSIGNED NOT NULL DEFAULT 0,
  stock_warn INT UNSIGNED NOT NULL DEFAULT 10,
  sales INT NOT NULL DEFAULT 0,
  status TINYINT NOT NULL DEFAULT 1,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  deleted_at DATETIME(3) NULL,
  UNIQUE KEY uk_sku_no (sku_no)
);
CREATE TABLE order_inventory_events (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  event_id VARCHAR(50) NOT NULL DEFAULT '',
  order_id BIGINT NOT NULL DEFAULT 0,
  created_at DATETIME NULL,
  updated_at DATETIME NULL,
  UNIQUE KEY uk_order_id (order_id)
);
CREATE TABLE inventory_stock_change_records (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  order_id BIGINT NOT NULL DEFAULT 0,
  sku_id BIGINT NOT NULL DEFAULT 0,
  source_type INT NOT NULL DEFAULT 0,
  quantity BIGINT NOT NULL DEFAULT 0,
  before_stock BIGINT NOT NULL DEFAULT 0,
  after_stock BIGINT NOT NULL DEFAULT 0,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  deleted_at DATETIME(3) NULL,
  UNIQUE KEY uk_change (order_id, sku_id, source_type)
);
