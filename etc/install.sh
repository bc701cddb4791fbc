#!/bin/sh
# Called by "make install": puts the programs of $BIN below $DESTDIR$PREFIX.
#
#   sbin  the administrators' commands      lib/postfix/sbin  Postfix' daemons
#   bin   the users' commands               lib/cyrus/bin     Cyrus' programs
#
# Daemons' names are never in PATH. Users and modes: see the end of this file.
set -eu
umask 022
: "${BIN:?}" "${PREFIX:?}" "${DESTDIR=}"
root=$DESTDIR$PREFIX

put() { # folder, program...: a hard link to the one binary, or a copy of a small one
  dir=$root/$1; shift
  mkdir -p "$dir"
  for p; do
    [ -e "$BIN/$p" ] || continue
    if [ "$BIN/$p" -ef "$BIN/angarium" ]; then
      ln -f "$root/lib/angarium/angarium" "$dir/$p"
    else
      install -m 755 "$BIN/$p" "$dir/$p"
    fi
  done
}

mkdir -p "$root/lib/angarium"
install -m 755 "$BIN/angarium" "$root/lib/angarium/angarium"
put sbin sendmail postfix postconf postmap postalias postsuper postcat postqueue postdrop \
  postlog postkick postlock mailsetup cyrmaster cyrus saslpasswd2 sasldblistusers2
mkdir -p "$root/bin"
for name in mailq newaliases; do
  ln -f "$root/sbin/sendmail" "$root/bin/$name"
done
mkdir -p "$root/lib"
ln -sf ../sbin/sendmail "$root/lib/sendmail"
put lib/postfix/sbin master smtpd qmgr local virtual pipe spawn postlogd
# The other daemons of a stock master.cf are functions of these: their names only
# say so, to whoever looks for them.
for name in anvil bounce cleanup discard dnsblog error flush lmtp nqmgr oqmgr pickup postscreen proxymap \
  qmqpd scache showq smtp tlsmgr tlsproxy trivial-rewrite verify; do
  ln -f "$root/lib/angarium/angarium" "$root/lib/postfix/sbin/$name"
done
put lib/cyrus/bin cyrmaster imapd pop3d lmtpd timsieved smmapd reconstruct cyr_info \
  ctl_cyrusdb ctl_deliver ctl_mboxlist cyr_expire mbpath tls_prune
[ ! -e "$root/lib/cyrus/bin/cyrmaster" ] || ln -f "$root/lib/cyrus/bin/cyrmaster" "$root/lib/cyrus/bin/master"
# Where Red Hat and Apple have them, and people's master.cf and scripts look.
mkdir -p "$root/libexec" "$root/bin/cyrus"
alias_dir() { # target, link: unless a folder of somebody else's is there
  [ -d "$root/$2" ] && [ ! -L "$root/$2" ] || ln -sfn "$1" "$root/$2"
}
alias_dir ../lib/postfix/sbin libexec/postfix
alias_dir ../lib/cyrus/bin libexec/cyrus-imapd
alias_dir ../../lib/cyrus/bin bin/cyrus/bin

for page in man/*.[1-8]; do
  section=${page##*.}
  mkdir -p "$root/share/man/man$section"
  install -m 644 "$page" "$root/share/man/man$section/"
done
mkdir -p "$root/share/doc/angarium"
install -m 644 README.md "$root/share/doc/angarium/"
cp -R etc/samples "$root/share/doc/angarium/"
chmod -R u=rwX,go=rX "$root/share/doc/angarium"
mkdir -p "$root/lib/systemd/system"
for unit in etc/systemd/*.service; do
  sed "s|@PREFIX@|$PREFIX|g" "$unit" >"$root/lib/systemd/system/${unit##*/}"
  chmod 644 "$root/lib/systemd/system/${unit##*/}"
done

# As root on the real system the set-gid programs get their group; a package
# does this from its own list:
#   user postfix, group postfix    owns the queue; what talks to strangers runs as it
#   group postdrop                 postdrop and postqueue, mode 2555
#   user cyrus, group mail         owns the store
if [ -z "$DESTDIR" ] && [ "$(id -u)" = 0 ] && getent group postdrop >/dev/null; then
  chgrp postdrop "$root/sbin/postdrop" "$root/sbin/postqueue"
  chmod 2555 "$root/sbin/postdrop" "$root/sbin/postqueue"
fi
