package postconf

import (
	"fmt"
	"os"
	"strings"
)

// testCase is a configuration and the calls that are tried on it.
type testCase struct {
	name         string
	main, master string // "absent": no such file
	calls        []string
}

const shows = "-n;-x;-nx;-nf;-nH;-nh;-C user;-C builtin -n;-C service;-M;-Mf;-Mx;-Mfx;-F;-Ff;-FH;-P;-Px;-Pf;-Ph;-PH"

func cases() []testCase {
	list := []testCase{
		{name: "empty", calls: split("-d;-dx;-df;;-x;-n;" + shows)},
		{name: "no files", main: "absent", master: "absent", calls: split("-n;-d;-M;-P;-e a=b;-X a;-Me a/unix='a unix - - - - - b'")},
		{name: "no master.cf", master: "absent", calls: split("-n;biff;-M;-d biff")},
		{name: "options", calls: split("-nd;-Mn;-am;-e;-X;-C foo;-T foo;-fe a=b;-Hh;-MC all;-bd;-e foo;-X a=b;-# '';-# '#x';-z;-c;-e;-M -X;-P -#;" +
			"-F -X a/b/c;-a -n;-l -h;-l;-a;-A;-n -C user,service;-C USER -n;-o x -n;-o x=y -d;-Mo x=y;-Me;-x -e a=b;-tb;-T x -T y;nosuch;-h nosuch biff;biff -h")},
		{name: "lines", main: "  x = y\nbiff = no\n# c\n\n  more\n\t\n \t# indented\n  and more\nbiff = yes\nmydomain=a.b\nrelayhost\t= [x]:25  \n", calls: split(shows)},
		{name: "no newline", main: "biff = no\nrelayhost = x\n y", calls: split(shows)},
		{name: "carriage returns", main: "biff = no\r\nrelayhost = x\r\n y\r\n", calls: split(shows + ";-e biff=yes")},
		{name: "missing =", main: "biff = no\nfoo\n", calls: split("-n;biff;-M;-d biff;-e biff=yes")},
		{name: "missing name", main: "= bar\n", calls: split("-n")},
		{name: "two words", main: "foo bar = x\n", calls: split("-n")},
		{name: "read only", main: "process_id = 3\nservice_name=x\nprocess_name = $x\n", calls: split(shows)},
	}
	for _, value := range []string{
		"$bar ${biff}", "${biff", "$", "$(biff)x", "$$a $$$$", "${a-b}", "${biff?{x}y}", "${biff?{x} : {y}}", "${biff?x:y}", "${biff:x?y}",
		"${nosuch?{x}:{y}} ${nosuch:z}", "${  biff  }", "${ biff ? {b} : {c} }", "${biff ?b:c}", "${{a} == {a}}", "${{a}=={b}?{x}:{y}}",
		"${{$biff} == {no} ? {is no} : {is ${biff}}}", "${{3} < {20} ? {a}:{b}} ${{3} > {abc}?x:y}", "${{3} ~ {20} ? {a}:{b}}", "${{3} == 20}",
		"${{a} <lvl {3.6} ? {a}:{b}}", "${{$compatibility_level} <level {3.6} ? {old} : {new}}", "${{3.9} >=level {3.10} ? {old} : {new}}",
		"${{x} <level {3.6} ? {a}:{b}}", "${{a} != {b} x}", "${{a} != {b} ? {c} d}", "${{a} != {b} ? {c} : {d} e}", "${{a}", "${{a} ! {b}}",
		"${biff?${relayhost?{a}:{b}}}", "$biff.$relayhost-x$mydomain_", "{ $biff }", "static:{a b}", "a, b,, c", "${biff?{a}:}", "${biff?}", "${biff:}", "${}", "${ }", "$-", "${9a}", "$9",
		"${{} == {} ? {e} : {f}}", "${{{a}} == {{a}} ? {{e}} : {f}}", "${{1} == {01} ? {e} : {f}}", "${{-1} < {1} ? {e} : {f}}",
	} {
		list = append(list, testCase{name: "value " + value, main: "biff = no\nrelayhost =\nmyorigin = " + value + "\n", calls: split("-n;-nx;-x myorigin mydestination")})
	}
	list = append(list,
		testCase{name: "unused value broken", main: "x = ${a-b}\ny = $x2 $\n", calls: split("-n;-x biff;-M")},
		testCase{name: "NUL", main: "biff = n\x00o\nrelayhost = a\n\x00 b\n", master: "a unix - - n - - x\x00 y\n", calls: split("-n;-M;biff relayhost")},
		testCase{name: "bytes", main: "\xef\xbb\xbfbiff = no\nmail_name = caf\xe9\n", calls: split("-n;mail_name")},
		testCase{name: "own config_directory", main: "config_directory = /x\ndata_directory = $config_directory/y\n", calls: split("-n;-x data_directory;-M")},
		testCase{name: "own names in master", master: "smtp inet n - n - - smtpd -o process_name=y -o syslog_name=$service_name/$process_name\n", calls: split("-Mx;-Px;-Fx")},
		testCase{name: "hosts 8", main: "mynetworks_style = host, class\n", calls: split("-n;mynetworks;-d biff")},
		testCase{name: "chain to the limit", main: chain(99), calls: split("-n;-x relayhost;-C user")},
		testCase{name: "loop", main: "biff=$biff\n", calls: split("-n;-x biff;relayhost")},
		testCase{name: "long chain", main: "a = $b\nb = $c\nc = $d\nd= $e\ne = f\nmyorigin = $a$a\n", calls: split(shows)},
		testCase{name: "level broken", main: "compatibility_level = 3.x\n", calls: split("-n;-d biff;-M")},
		testCase{name: "level 3.6", main: "compatibility_level = 3.6\n", calls: split(";-x;-nx")},
		testCase{name: "level 1", main: "compatibility_level = 1\n", calls: split("-x")},
		testCase{name: "databases", main: "alias_maps = ldap:one, proxy:mysql:two, {pgsql:three}, static:{ldap:four}, sqlite:five memcache:six ldap:/nosuch ldap:./x\n" +
			"one_bind = no\none_foo=x\ntwo_user=x\ntwo_bind=no\nthree_hosts = $biff\nfour_timeout=1\nfive_dbpath=x\nsix_ttl=3\nthree = four\n", calls: split(shows)},
		testCase{name: "database braces", main: "alias_maps = static:{abc xproxy:{x:{b} }c}, ldap:foo, {ldap:x\nfoo_bind = no\nfoo_xx=x\nx_scope=a\n", calls: split("-n")},
		testCase{name: "hosts", main: "mydomain = example.com\nmynetworks_style = host\ninet_protocols = ipv4\n", calls: split("-n;-x;mynetworks myhostname;-x mydestination")},
		testCase{name: "hosts 2", main: "myhostname = mail.example.com\nmynetworks_style = class\ninet_interfaces = loopback-only\n", calls: split("-n;-x;mynetworks mydomain;-d mynetworks mydomain")},
		testCase{name: "hosts 3", main: "mydomain = $mydomain\nmyhostname = h\n", calls: split("-n")},
		testCase{name: "hosts 4", main: "mynetworks_style = foo\n", calls: split("-n;mynetworks")},
		testCase{name: "hosts 5", main: "mynetworks_style = \n", calls: split("-n;mynetworks")},
		testCase{name: "hosts 6", main: "inet_protocols = foo\n", calls: split("-n;mynetworks")},
		testCase{name: "hosts 7", main: "inet_interfaces = 127.0.0.1\nmynetworks_style=subnet\n", calls: split("-n;mynetworks;-o inet_protocols=ipv6 mynetworks")},
		testCase{name: "services", main: userMain, master: userMaster, calls: split(shows + ";v_transport_rate_delay nosuch;-h v_destination_recipient_limit;-M smtp;-M smtp/inet x/y;" +
			"-F smtp/inet/chroot */*/command;-F smtp/inet/zap;-P smtp;-P */*/foo;-M /x;-M a/b/c;-P smtp/inet/none;-M s*;-M *;-P a/b/c/d;-F a/b/c/d;-o biff=no -n;-o foo=bar -Px;-n -o 'a b=c'")},
		testCase{name: "legacy", main: "virtual_maps = x\nfallback_relay = y\npostscreen_blacklist_action = drop\nsmtp_per_record_deadline=yes\n", calls: split("-n;-x;virtual_maps;-C user")},
		testCase{name: "broken type", master: "x foo n - - - - smtpd\n", calls: split("-M;-n;x")},
		testCase{name: "broken private", master: "x unix z - - - - smtpd\n", calls: split("-M")},
		testCase{name: "broken wakeup", master: "x unix y - - 1x 1 smtpd\n", calls: split("-M")},
		testCase{name: "broken limit", master: "x unix y - - 0 -1 smtpd\n  foo", calls: split("-M")},
		testCase{name: "few fields", master: "#\n\nx unix y - -\n -\n#\n\n", calls: split("-M;-n")},
		testCase{name: "all types", master: "a inet n - - - - a\nb unix - - - 0? 0 b\nc fifo n n n 60 1 c\nd pass y y y 99? 2 d\ne unix-dgram - - - - - e\n", calls: split("-M;-Mf;-F;-M d e;-M */pass")},
		testCase{name: "options in master", master: "a inet n - - - - smtpd -v -D -vo x=y -o {a = b c} -o {foo} -o x -- -o y=z\nb unix - - - - - pipe a={b} {c d} {e\n", calls: split("-M;-Mf;-P;-F")},
	)
	list = append(list, editCases()...)
	for _, path := range []string{"/etc/postfix", "/usr/share/postfix"} {
		for _, pair := range [][2]string{{"main.cf", "master.cf"}, {"main.cf.proto", "master.cf.proto"}, {"main.cf.dist", "master.cf.dist"}} {
			main, err := os.ReadFile(path + "/" + pair[0])
			master, err2 := os.ReadFile(path + "/" + pair[1])
			if err == nil && err2 == nil {
				list = append(list, testCase{name: path + "/" + pair[0], main: string(main), master: string(master), calls: split(";-x;" + shows + ";-e biff=yes;-X biff;-# biff;-Pe smtp/inet/biff=no;-Fe */*/chroot=y;-MX smtp/inet;-M# smtp/unix")})
			}
		}
	}
	return list
}

const userMain = `ucls = reject
smtpd_restriction_classes = ucls, nope, $more
more = another
another = permit
mydel_time_limit = 3
spw_time_limit = 4
v_destination_recipient_limit = 9
biff_time_limit = 7
virtual_maps = hash:/x
x = $y
y = $x2
smtp_destination_concurrency_limit = 4
smtpd_recipient_restrictions = permit_mynetworks,
   # a comment
   check_client_access cidr:{
      {192.0.2.0/24 permit}},
   reject_unauth_destination, reject_unknown_recipient_domain, reject_unknown_sender_domain
`

const userMaster = `# comment
smtp      inet  n       -       y       -       -       smtpd -v
  -o foo=bar -o { bar = $foo x $service_name }
  -o smtpd_restriction_classes=cls -o cls=permit -o unused=1
  -o ucls=x
pickup    unix  n  -  y 60 1 pickup
mydel     unix  -  n  n  -  -  pipe
  flags=R user=x argv={ /bin/x y } ${sender}
spw unix - n n - 0 spawn user=a argv={b c}
v unix - - - - - virtual -o biff=no -- -o {x = y}
averyveryverylongservicename unix - - - - - error -o smtpd_recipient_restrictions=permit_mynetworks,permit_sasl_authenticated,reject_unauth_destination -o x=y
`

func editCases() []testCase {
	const main = "# first\nbiff = no\n# between\n\n  more\n# end\nrelayhost = a\nbiff = yes\n  again\nmyorigin=b\n"
	const master = "# first\nsmtp inet n - y - - smtpd -v\n  -o a=b\n# inside\n\n  -o c=d -o a=e\n# after\nsmtp unix - - n - - smtp\nlocal unix - n n - - local arg\nlocal unix - n n - - other\n"
	return []testCase{
		{name: "edit main", main: main, calls: split("-e biff=x;biff=y;-e relayhost=;-e 'zz = 1';-e myorigin=c relayhost=d;-X biff;-X relayhost nosuch;-# biff;-# myorigin relayhost;" +
			"-e biff=1 biff=2;-e ' biff = x ';-e '=x';-e '#x=y';-e relayhost=x=y;-p relayhost=z;-ep relayhost=z;-e 'a=b c  d'")},
		{name: "edit master", master: master, calls: split("-Me smtp/inet='smtp inet n - n - 9 smtpd';-M smtp/inet='smtps inet n - n - 9 smtpd -o x=y';-M new/unix='new unix - - - - - x';-MX smtp/inet;-MX local/unix;-M# smtp/inet;-M# smtp/unix local/unix;" +
			"-MX nosuch/unix;-M# nosuch/unix;-Me smtp='x';-Me smtp/inet='x';-Me smtp/inet='x foo n - - - - a';-M x/unix='local unix - - - - - repl';" +
			"-Fe smtp/inet/chroot=n;-F */*/process_limit=5;-Fe smtp/*/command='smtpd -o x=y {a b}';-Fe smtp/inet/zap=y;-Fe smtp/inet/*=y;-Fe 'smtp/inet/chroot=n n';-Fe smtp/inet/chroot=q;-Fe no/inet/chroot=n;-F smtp/inet/chroot=y local/unix/wakeup=60;" +
			"-Pe smtp/inet/a=z;-P smtp/inet/new=v;-P */unix/new=v;-PX smtp/inet/a;-PX smtp/inet/c;-PX smtp/inet/nosuch;-PX no/inet/a;-P smtp/inet/a=;-Pe smtp/inet/*=v;-Pe smtp/inet=v;-PX smtp/inet/a smtp/inet/c;" +
			"-P# smtp/inet/a;-P 'smtp/inet/a=x y';-P 'smtp/inet/a= x ';-FX smtp/inet/chroot;-M '#x=y';-MX a=b;-Me 'smtp/inet=# x';-PX 'smtp/inet/*'")},
		{name: "edit broken master", master: "smtp\n  inet n - - - - x\n", calls: split("-MX smtp/inet;-Fe smtp/inet/chroot=y")},
		{name: "edit short master", master: "smtp inet n - -\n", calls: split("-MX smtp/inet;-Fe smtp/inet/chroot=y;-Pe smtp/inet/a=b")},
		{name: "edit odd names", master: "a=b inet n - - - - x\n", calls: split("-MX smtp/inet")},
		{name: "edit odd types", master: "a in/et n - - - - x\n", calls: split("-MX smtp/inet")},
	}
}

// chain is $a0, which is $a1, and so on: as deep as one may nest.
func chain(n int) string {
	var b strings.Builder
	b.WriteString("relayhost = $a0\n")
	for i := range n {
		fmt.Fprintf(&b, "a%d = $a%d\n", i, i+1)
	}
	fmt.Fprintf(&b, "a%d = end\n", n)
	return b.String()
}

// split takes calls apart at semicolons.
func split(calls string) []string { return strings.Split(calls, ";") }
