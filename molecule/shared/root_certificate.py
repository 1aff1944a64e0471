# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the certificate of a new authority whose key nobody keeps."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

key = ec.generate_private_key(ec.BrainpoolP256R1())
name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root")])
now = datetime.datetime.now(datetime.UTC)
builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
print(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())
