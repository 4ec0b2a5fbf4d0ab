# Copyright (c) The serkd_mm authors. All rights reserved.
