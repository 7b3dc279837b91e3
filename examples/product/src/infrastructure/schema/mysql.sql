-- The tables of the product service, as the Go product service has them: whoever has those keeps
-- them. Beyond its tables an order is decided once and changes a SKU once per source: unique keys
-- say so.
CREATE TABLE IF NOT EXISTS products (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  product_no VARCHAR(64) NOT NULL,
  product_name VARCHAR(255) NOT NULL,
  category_id INT UNSIGNED NOT NULL,
  brand_id INT UNSIGNED NULL,
  main_image VARCHAR(500) NULL,
  description TEXT NULL,
  status TINYINT NOT NULL DEFAULT 1,
  is_deleted TINYINT(1) DEFAULT 0,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  deleted_at DATETIME(3) NULL,
  UNIQUE KEY uk_product_no (product_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS product_skus (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  product_id INT UNSIGNED NOT NULL,
  sku_no VARCHAR(64) NOT NULL,
  sku_name VARCHAR(255) NOT NULL,
  spec_value_ids VARCHAR(500) NOT NULL DEFAULT '',
  spec_value_text VARCHAR(500) NOT NULL DEFAULT '',
  price DECIMAL(18,2) NOT NULL,
  market_price DECIMAL(18,2) NULL,
  stock INT UNSIGNED NOT NULL DEFAULT 0,
  stock_warn INT UNSIGNED NOT NULL DEFAULT 10,
  sales INT NOT NULL DEFAULT 0,
  main_image VARCHAR(500) NULL,
  status TINYINT NOT NULL DEFAULT 1,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  deleted_at DATETIME(3) NULL,
  UNIQUE KEY uk_sku_no (sku_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS sku_images (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  sku_id INT UNSIGNED NOT NULL,
  image_url VARCHAR(500) NOT NULL,
  is_main TINYINT(1) NOT NULL DEFAULT 0,
  display_order INT NOT NULL DEFAULT 0,
  is_deleted TINYINT(1) DEFAULT 0,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  KEY idx_sku_id (sku_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS order_inventory_events (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  event_id VARCHAR(50) NOT NULL DEFAULT '',
  order_id BIGINT NOT NULL DEFAULT 0,
  created_at DATETIME NULL,
  updated_at DATETIME NULL,
  UNIQUE KEY uk_event_id (event_id),
  UNIQUE KEY uk_order_id (order_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS inventory_stock_change_records (
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
  UNIQUE KEY uk_order_sku_source (order_id, sku_id, source_type),
  KEY idx_sku_id (sku_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS suppliers (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(100) NOT NULL,
  contact_person VARCHAR(50) NOT NULL,
  phone VARCHAR(20) NOT NULL,
  email VARCHAR(100) NOT NULL,
  address TEXT NOT NULL,
  rating DECIMAL(3,2) NOT NULL,
  lead_time_days INT NOT NULL,
  payment_terms VARCHAR(50) NOT NULL,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  deleted_at DATETIME(3) NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS supplier_products (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  supplier_id INT UNSIGNED NOT NULL,
  sku_id INT UNSIGNED NOT NULL,
  supply_price DECIMAL(10,2) NOT NULL DEFAULT 0,
  min_order_quantity INT NOT NULL DEFAULT 0,
  is_preferred TINYINT(1) NOT NULL DEFAULT 0,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  KEY idx_sku_id (sku_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS sku_restock_records (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  user_id INT NOT NULL DEFAULT -1,
  sku_id BIGINT UNSIGNED NOT NULL DEFAULT 0,
  quantity INT NOT NULL,
  reason VARCHAR(255) NOT NULL,
  status TINYINT UNSIGNED NOT NULL DEFAULT 1,
  failed_reason VARCHAR(200) NOT NULL DEFAULT '',
  application_no VARCHAR(50) NOT NULL DEFAULT '',
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  deleted_at DATETIME(3) NULL,
  KEY idx_application_no (application_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS sku_restock_audit (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  restock_id BIGINT UNSIGNED NOT NULL DEFAULT 0,
  audit_user_id INT UNSIGNED NOT NULL DEFAULT 0,
  audit_status TINYINT UNSIGNED NOT NULL DEFAULT 1,
  audit_failed_reason VARCHAR(200) NOT NULL DEFAULT '',
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  deleted_at DATETIME(3) NULL,
  KEY idx_restock_id (restock_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
