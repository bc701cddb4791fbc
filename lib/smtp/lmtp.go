package smtp

import "strings"

// lmtpWords are Cyrus' texts where they differ from those of smtpd(8). Postfix
// and others put them into their logs and bounces.
var lmtpWords = map[Reply]Reply{
	{500, "5.5.2", "Error: command not recognized"}:  {500, "5.5.2", "Syntax error"},
	{501, "", "Syntax: LHLO hostname"}:               {500, "5.5.2", "Syntax error"},
	{501, "5.5.4", "Syntax: MAIL FROM:<address>"}:    {501, "5.5.4", "Syntax error in parameters"},
	{501, "5.5.4", "Syntax: RCPT TO:<address>"}:      {501, "5.5.4", "Syntax error in parameters"},
	{503, "5.5.1", "Error: nested MAIL command"}:     {503, "5.5.1", "Nested MAIL command"},
	{503, "5.5.1", "Error: need MAIL command"}:       {503, "5.5.1", "Need MAIL command"},
	{503, "5.5.1", "Error: need RCPT command"}:       {503, "5.5.1", "No recipients"},
	{554, "5.5.1", "Error: no valid recipients"}:     {503, "5.5.1", "No recipients"},
	{502, "5.5.1", "Error: command not implemented"}: {500, "5.5.2", "Syntax error"},
	{501, "5.5.4", "Syntax: RSET"}:                   {500, "5.5.2", "Syntax error"},
	{501, "5.1.7", "Bad sender address syntax"}:      {501, "5.5.4", "Syntax error in parameters"},
	{501, "5.1.3", "Bad recipient address syntax"}:   {501, "5.5.4", "Syntax error in parameters"},
	{501, "5.5.4", "Bad message size syntax"}:        {501, "5.5.2", "SIZE requires a value"},
	{250, "2.0.0", "Ok"}:                             {250, "2.0.0", "ok"},
	{221, "2.0.0", "Bye"}:                            {221, "2.0.0", "bye"},
	{354, "", "End data with <CR><LF>.<CR><LF>"}:     {354, "", "go ahead"},
}

// words is the reply as this kind of server says it.
func (c *Conn) words(r Reply) Reply {
	if c.srv.LMTP {
		if w, ok := lmtpWords[r]; ok {
			return w
		}
		if option, is := strings.CutPrefix(r.Text, "Unsupported option: "); is {
			r = Reply{501, "5.5.4", "Unrecognized parameters"}
			if strings.HasPrefix(upper(option), "BODY=") {
				r.Text = "Unrecognized BODY type"
			}
		}
	}
	return r
}
